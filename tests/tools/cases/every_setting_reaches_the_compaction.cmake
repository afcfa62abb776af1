include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
set(capture ${SOURCE}/examples/data/tinybooks.safetensors)
macro(measure variable)
  run(0 ${KVFIT} eval ${capture} --ratios 10 ${ARGN} --json rows.json)
  figure(output rows.json rows 0 output_error)
  figure(mass rows.json rows 0 mass_error)
  set(${variable} "${output} ${mass}")
endmacro()
# Each: method, setting, a value that is not the method's own.
set(tried
  "default held_out=0.5" "omp keys_per_round=8" "omp refit_interval=16" "default bias_lower=1"
  "default ridge=0.1" "default storage=bf16" "default bias_storage=bf16" "omp norm_power=0.5"
  "omp precision=bf16" "zero_bias ridge=0.1" "default mass_weight=2" "default sketch=0"
  "default attention_share=0.3" "topk window=16" "default reweightings=2" "default refine_steps=2"
  "default refine_work=0.1" "default refine_mass_weight=2" "default refine_mass_softness=1"
  "default refine_sets=2" "gradient_mass gradient_steps=9" "gradient_joint gradient_steps=9")
foreach(one IN LISTS tried)
  separate_arguments(one)
  list(GET one 0 method)
  list(GET one 1 setting)
  measure(before --methods ${method})
  measure(after --methods ${method} --set ${setting})
  check(NOT before STREQUAL after)
endforeach()
# Queries for each row are seen where they are more than the least number, which is seen where it is
# more than they are.
measure(many --methods default --set queries_at_least=1)
measure(few --methods default --set queries_at_least=1 --set queries_per_row=4)
measure(least --methods default --set queries_at_least=1024 --set queries_per_row=4)
check(NOT many STREQUAL few)
check(NOT least STREQUAL few)
# Few steps are enough to see how they are made.
foreach(setting gradient_optimiser=lbfgs gradient_rate=0.1 gradient_least_share=1
    gradient_mass_weight=1 gradient_penalty=1 "gradient_improvement=1000;--set;gradient_patience=3")
  measure(before --methods gradient_joint --set gradient_steps=30)
  measure(after --methods gradient_joint --set gradient_steps=30 --set ${setting})
  check(NOT before STREQUAL after)
endforeach()
# These say how made sets are used; the steps must be long enough to see them.
set(sets "--set;refine_steps=6;--set;refine_sets=4")
foreach(setting refine_sets_at_once=1 refine_steps_a_batch=2 refine_spread=1)
  measure(before --methods default ${sets})
  measure(after --methods default ${sets} --set ${setting})
  check(NOT before STREQUAL after)
endforeach()
measure(spectral --methods default --set ridge=0.1)
measure(fixed --methods default --set ridge=0.1 --set ridge_scaling=fixed)
check(NOT spectral STREQUAL fixed)
# Where dead keys are many (a high floor), replacing them is seen.
measure(replaced --methods default --set bias_lower=1)
measure(kept --methods default --set bias_lower=1 --set replace_dead_keys=false)
check(NOT replaced STREQUAL kept)
# Where queries are few for the keys, the ridge is cross-validated unless told not to.
set(few --methods default --set queries_per_row=2 --set queries_at_least=1)
measure(validated ${few})
measure(plain ${few} --set cross_validate_below=0)
check(NOT validated STREQUAL plain)
# Where values are held fast by nothing (few queries fitted, none judged), copies may be better.
small_capture(small)
run(0 ${KVFIT} eval small --methods omp --ratios 1.1 --set held_out=0.5
  --set keep_better_values=true,false --json rows.json)
figure(better rows.json rows 0 output_error)
figure(fitted rows.json rows 1 output_error)
check(NOT better STREQUAL fitted)
