include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
find_program(TIMEOUT timeout)
if(NOT TIMEOUT)
  message("SKIPPED: no program `timeout` to send the signal")
  return()
endif()
# Long enough to be interrupted on any machine.
set(ratios 2)
foreach(tenth RANGE 21 99)
  string(REGEX REPLACE "(.)$" ".\\1" ratio ${tenth})
  string(APPEND ratios ,${ratio})
endforeach()
run(130 ${TIMEOUT} --preserve-status -s INT 1 ${KVFIT} eval ${SOURCE}/examples/data/tinybooks.safetensors
  --threads 1
  --methods omp,omp_fast,default --ratios ${ratios} --json rows.json --svg error.svg)
check(err MATCHES "interrupted. nothing was written")
check_silent(out)
check_only_files()
