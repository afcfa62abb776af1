# find_package(kvfit REQUIRED COMPONENTS …) of a component that can't be had stops and says why.
# Each case is a component, what is taken away, and words of the reason.
cmake_minimum_required(VERSION 3.22)
set(cases "nonesuch||kvfit has no component nonesuch")
if("io" IN_LIST PARTS)
  list(APPEND cases "io|-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON|needs nlohmann_json")
else()
  list(APPEND cases "io||installed without the component io")
endif()
if("mpi" IN_LIST PARTS)
  list(APPEND cases "mpi|-DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON|needs an MPI library")
else()
  list(APPEND cases "mpi||installed without the component mpi")
endif()
if("compiled" IN_LIST PARTS)
  list(APPEND cases
    "compiled|-DCMAKE_DISABLE_FIND_PACKAGE_kvfit_compiled=ON|the component compiled .KVFIT_COMPILED.")
else()
  list(APPEND cases "compiled||the component compiled .KVFIT_COMPILED. is not installed")
endif()

set(source ${WORK}/refusals)
file(REMOVE_RECURSE ${source})
file(WRITE ${source}/CMakeLists.txt [[
cmake_minimum_required(VERSION 3.22)
project(refusals LANGUAGES CXX)
find_package(kvfit QUIET OPTIONAL_COMPONENTS ${COMPONENT})
if(NOT kvfit_FOUND)
  message(FATAL_ERROR "a component that is optional was required")
endif()
find_package(kvfit REQUIRED COMPONENTS ${COMPONENT})
]])
foreach(case IN LISTS cases)
  string(REPLACE "|" ";" case "${case}")
  list(POP_FRONT case component taken reason)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${source} -B ${source}/build -G ${GENERATOR}
      -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${INSTALLED} -DCOMPONENT=${component} ${taken}
    RESULT_VARIABLE result ERROR_VARIABLE error OUTPUT_QUIET)
  string(REGEX REPLACE "[ \n]+" " " error "${error}")  # CMake breaks lines where it likes
  if(result EQUAL 0 OR NOT error MATCHES "${reason}")
    message(FATAL_ERROR "the component ${component}: exit code ${result}, and no \"${reason}\" in\n${error}")
  endif()
endforeach()
