# What find_package(kvfit COMPONENTS metal) does on Apple, acted out: CMake is told that this is one, and
# metal-cpp is an empty header. Nothing is built.
cmake_minimum_required(VERSION 3.22)
set(compiler -DCMAKE_CXX_COMPILER=${COMPILER})
if(TOOLCHAIN)
  set(compiler -DCMAKE_TOOLCHAIN_FILE=${TOOLCHAIN})
endif()
set(source ${WORK}/apple)
file(REMOVE_RECURSE ${source})
file(WRITE ${source}/metal-cpp/Metal/Metal.hpp "")
file(WRITE ${source}/CMakeLists.txt [[
cmake_minimum_required(VERSION 3.22)
project(apple LANGUAGES CXX)
set(APPLE ON)
find_package(kvfit REQUIRED COMPONENTS metal)
find_package(kvfit REQUIRED COMPONENTS metal)  # twice does no harm
foreach(line "kvfit::metal;INTERFACE_COMPILE_DEFINITIONS;KVFIT_METAL"
    "kvfit::metal;INTERFACE_LINK_LIBRARIES;kvfit::kvfit"
    "kvfit::metal;INTERFACE_LINK_LIBRARIES;kvfit_metal_cpp"
    "kvfit_metal_cpp;INTERFACE_LINK_LIBRARIES;-framework Metal"
    "kvfit_metal_cpp;INTERFACE_LINK_LIBRARIES;-framework Foundation"
    "kvfit_metal_cpp;INTERFACE_LINK_LIBRARIES;-framework CoreGraphics"
    "kvfit_metal_cpp;INTERFACE_INCLUDE_DIRECTORIES;${METAL_CPP}")
  list(POP_FRONT line target property expected)
  get_target_property(values ${target} ${property})
  list(TRANSFORM values REPLACE "/$" "")
  if(NOT expected IN_LIST values)
    message(FATAL_ERROR "${target} has ${property} ${values}, without ${expected}")
  endif()
endforeach()
get_target_property(sources kvfit_metal_cpp SOURCES)
if(NOT EXISTS "${sources}")
  message(FATAL_ERROR "metal-cpp's own implementation is not installed: ${sources}")
endif()
]])
# configure(OUT ARGUMENT...): the exit code, and in OUT what was said.
macro(configure out)
  file(REMOVE_RECURSE ${source}/build)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${source} -B ${source}/build -G ${GENERATOR} ${compiler}
      -DCMAKE_PREFIX_PATH=${INSTALLED} -DMETAL_CPP=${source}/metal-cpp ${ARGN}
    RESULT_VARIABLE result ERROR_VARIABLE ${out} OUTPUT_QUIET)
  string(REGEX REPLACE "[ \n]+" " " ${out} "${${out}}")  # CMake breaks lines where it likes
endmacro()
configure(said -DKVFIT_METAL_CPP=${source}/metal-cpp)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${said}")
endif()
configure(said)
if(result EQUAL 0 OR NOT said MATCHES "the component metal needs Apple's metal-cpp")
  message(FATAL_ERROR "without metal-cpp: exit code ${result}, ${said}")
endif()
