include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
# F: the same figures as eval's, where every eighth reference query is made a test query.
small_capture(made capped+sinks+image)
run(0 ${KVFIT} tune made --ratio 4 --milliseconds-per-head 100000 --methods topk,omp)
set(tuned "${out}")
run(0 ${SUPPORT} split_capture made split)
run(0 ${KVFIT} eval split --methods topk,omp --ratios 4 --json rows.json)
foreach(label topk omp)
  check(tuned MATCHES "\n${label} +[0-9.e-]+ +([0-9.e-]+) +([0-9.e-]+) ")
  run(0 ${SUPPORT} check_geometric rows.json ${label} 4 ${CMAKE_MATCH_1} ${CMAKE_MATCH_2})
endforeach()
# The code that it prints carries the rule.
check(tuned MATCHES "\n  options.rule = {[^\n]*[.]soft_cap = [0-9.]+F")
check(tuned MATCHES "query_block::sink_logit")
