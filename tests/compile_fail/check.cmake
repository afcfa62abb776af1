# Compiles SOURCE as VARIANT (good or bad) and judges the outcome; see CMakeLists.txt beside this.
separate_arguments(command UNIX_COMMAND "${FLAGS}")
list(PREPEND command ${COMPILER} -std=c++20 -fsyntax-only)
foreach(directory IN LISTS INCLUDES)
  list(APPEND command -I${directory})
endforeach()
if(VARIANT STREQUAL "bad")
  list(APPEND command -DKVFIT_BAD)
endif()

execute_process(COMMAND ${command} ${SOURCE} RESULT_VARIABLE status ERROR_VARIABLE messages)

if(VARIANT STREQUAL "good")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "must compile, but:\n${messages}")
  endif()
  return()
endif()

file(STRINGS ${SOURCE} expected REGEX "^// expect: ")
string(REPLACE "// expect: " "" expected "${expected}")
if(status EQUAL 0)
  message(FATAL_ERROR "must not compile, but it does")
elseif(expected STREQUAL "" OR NOT messages MATCHES "${expected}")
  # Failing for another reason than the one meant proves nothing.
  message(FATAL_ERROR "must fail with \"${expected}\", but failed with:\n${messages}")
endif()
