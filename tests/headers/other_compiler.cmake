# SPDX-License-Identifier: MIT
# Reads every header, with macros named min and max and for kvfit::compiled as well, by COMPILER with
# FLAGS. Skipped where that can't read the standard's own headers.
if(NOT COMPILER)
  message("SKIPPED: ${MISSING}")
  return()
endif()
# Named from the folder where the compiler runs: clang-cl takes what begins with / for an option.
file(RELATIVE_PATH unit ${WORK} ${UNIT})
file(WRITE ${WORK}/trial.cpp "#include <algorithm>\n#include <map>\nint main() {}\n")
execute_process(COMMAND ${COMPILER} ${FLAGS} -fsyntax-only trial.cpp RESULT_VARIABLE failed
  WORKING_DIRECTORY ${WORK} OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(failed)
  message("SKIPPED: ${MISSING}: ${said}")
  return()
endif()
foreach(definition "" -DKVFIT_COMPILED)
  execute_process(COMMAND ${COMPILER} ${FLAGS} ${definition} -fsyntax-only ${unit}
    WORKING_DIRECTORY ${WORK} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endforeach()
