include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
# F: soft cap, sinks, ALiBi, window, causality and a scale of a layer's own reach fits, results and
# errors alike; E: rows that share a position, and a next position below the number of rows.
foreach(kind capped sinks image f8 capped+sinks+image+f8)
  small_capture(made ${kind})
  run(0 ${KVFIT} eval made --methods topk,highest_attention,omp,default --ratios 6 --json rows.json)
  foreach(method topk highest_attention omp default)
    run(0 ${KVFIT} compact made --ratio 6 --method ${method} --storage fp32 -o result)
    run(0 ${SUPPORT} check_eval made result rows.json ${method} 6)
  endforeach()
  run(0 ${SUPPORT} check_result made result default 6 fp32)
endforeach()
