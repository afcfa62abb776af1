# What the cases share: an empty folder ${WORK}, a way to run programs in it, and checks.
cmake_minimum_required(VERSION 3.22)
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})

# run(EXIT_CODE PROGRAM ARGUMENTS...): fails unless it exits so. Leaves `out` and `err`.
macro(run expected)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${WORK}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT code STREQUAL "${expected}")
    message(FATAL_ERROR "${ARGN}\nexited with ${code}, expected ${expected}\n${out}${err}")
  endif()
endmacro()

# check(CONDITION...): fails, showing the condition and what the last program said. No empty texts and
# no lists: macros lose them.
macro(check)
  if(NOT (${ARGN}))
    message(FATAL_ERROR "not so: ${ARGN}\nstdout:\n${out}\nstderr:\n${err}")
  endif()
endmacro()

# figure(VARIABLE JSON_FILE PLACE...): an entry of a JSON file.
macro(figure variable file)
  file(READ ${WORK}/${file} figure_json)
  string(JSON ${variable} GET "${figure_json}" ${ARGN})
endmacro()

# check_silent(out|err): the last program said nothing there.
macro(check_silent stream)
  string(LENGTH "${${stream}}" length)
  check(length EQUAL 0)
endmacro()

# small_capture(PATH [no_test|wild_test|not_finite]): two layers of two heads, 96 rows.
macro(small_capture path)
  run(0 ${SUPPORT} make_capture ${path} ${ARGN})
endmacro()

# check_only_files(NAMES...): ${WORK} holds just these.
function(check_only_files)
  file(GLOB there RELATIVE ${WORK} ${WORK}/* ${WORK}/.*)
  list(REMOVE_ITEM there . ..)
  list(SORT there)
  list(SORT ARGN)
  if(NOT "${there}" STREQUAL "${ARGN}")
    message(FATAL_ERROR "found the files ${there}; expected ${ARGN}")
  endif()
endfunction()
