include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
small_capture(small)
# Each: method, setting.
foreach(one "topk keys_per_round=2" "highest_attention norm_power=1" "omp bias_lower=0.5"
    "topk ridge=0.1" "omp_progressive keys_per_round=2"
    "joint gradient_steps=5" "gradient_joint refine_steps=5")
  separate_arguments(one)
  list(GET one 0 method)
  list(GET one 1 setting)
  string(REGEX REPLACE "=.*" "" name ${setting})
  run(2 ${KVFIT} eval small --methods default,${method} --set ${method}:${setting})
  check(err MATCHES "method ${method} has no setting ${name}")
  run(2 ${KVFIT} compact small --ratio 4 --method ${method} --set ${setting} -o result)
  check(err MATCHES "method ${method} has no setting ${name}")
  run(2 ${KVFIT} tune small --ratio 4 --milliseconds-per-head 9 --methods ${method} --set ${setting})
  check(err MATCHES "method ${method} has no setting ${name}")
endforeach()
# In range by itself, but above the upper bound of the method.
run(2 ${KVFIT} eval small --methods highest_attention --set bias_lower=1000)
check(err MATCHES "projected_gradient.upper .must be at least lower, 1000, is ")
check_only_files(small)
