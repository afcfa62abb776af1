include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
foreach(method omp default random)
  foreach(threads 1 4)
    run(0 ${KVFIT} compact ${SOURCE}/examples/data/tinybooks.safetensors --ratio 20 --method ${method}
      --threads ${threads} -o ${method}${threads})
    file(SHA256 ${WORK}/${method}${threads} hash${threads})
  endforeach()
  check(hash1 STREQUAL hash4)
endforeach()
