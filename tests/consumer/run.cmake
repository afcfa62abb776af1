# Configures, builds and runs the consumer project; see CMakeLists.txt beside this.
file(REMOVE_RECURSE ${WORK})  # what an earlier run installed must not help this one

if(WAY STREQUAL "package")
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${KVFIT_BINARY} --prefix ${WORK}/prefix
      --component kvfit OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  set(where -DCMAKE_PREFIX_PATH=${WORK}/prefix)
else()
  set(where -DKVFIT_SOURCE=${KVFIT_SOURCE})
endif()
if(TOOLCHAIN)
  list(APPEND where -DCMAKE_TOOLCHAIN_FILE=${TOOLCHAIN})
else()
  list(APPEND where -DCMAKE_CXX_COMPILER=${COMPILER})
endif()

execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK}/build -G ${GENERATOR} ${where}
    "-DCMAKE_CXX_FLAGS=${FLAGS}" -DEXPECT_IO=${IO} -DEXPECT_MPI=${MPI}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build --target run
  COMMAND_ERROR_IS_FATAL ANY)
