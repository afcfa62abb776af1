# SPDX-License-Identifier: MIT
# Where windows.h has been included, min( and max( are macros. (std::min)(a, b) is not: a macro with
# arguments is only one where a parenthesis follows its name. Metal's own language has no windows.h.
file(GLOB_RECURSE sources RELATIVE ${root} ${root}/include/*.hpp ${root}/include/*.h
  ${root}/src/*.hpp ${root}/src/*.cpp)
list(FILTER sources EXCLUDE REGEX "/metal/kernels/")
list(LENGTH sources count)
if(count LESS 100)
  message(FATAL_ERROR "${count} sources in ${root}: this test does not see the library")
endif()
set(found)
foreach(source IN LISTS sources)
  file(READ ${root}/${source} text)
  string(REGEX REPLACE "//[^\n]*" "" text "${text}")
  string(REGEX REPLACE "\n *\\*[^\n]*" "\n" text "${text}")
  if(text MATCHES "[^\n]*[^a-zA-Z0-9_\n](min|max) *\\([^\n]*")
    string(APPEND found "\n  ${source}: ${CMAKE_MATCH_0}")
  endif()
endforeach()
if(found)
  message(FATAL_ERROR "Write (std::min)(a, b), and (std::numeric_limits<T>::max)(), in:${found}")
endif()
