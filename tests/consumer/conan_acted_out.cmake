# The recipe with its default options; packaging/check.sh goes through all.
cmake_minimum_required(VERSION 3.22)
find_program(PYTHON python3)
if(NOT PYTHON OR NOT "io" IN_LIST PARTS)
  message("SKIPPED: no python3, or no nlohmann/json")
  return()
endif()
set(ENV{CXX} ${COMPILER})
set(ENV{CMAKE_GENERATOR} ${GENERATOR})
set(ENV{PYTHONDONTWRITEBYTECODE} 1)
execute_process(COMMAND ${PYTHON} ${KVFIT_SOURCE}/packaging/conan/act_out.py ${WORK}/conan
  COMMAND_ERROR_IS_FATAL ANY)
