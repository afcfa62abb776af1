# The port with the features that need no compiled library; packaging/check.sh goes through all.
cmake_minimum_required(VERSION 3.22)
if(NOT "io" IN_LIST PARTS)
  message("SKIPPED: no nlohmann/json")
  return()
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -DFEATURES=io -DWORK=${WORK}/vcpkg -DGENERATOR=${GENERATOR}
    -DCOMPILER=${COMPILER} -P ${KVFIT_SOURCE}/packaging/vcpkg/act_out.cmake COMMAND_ERROR_IS_FATAL ANY)
