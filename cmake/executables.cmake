# Flags of kvfit's own executables. None of this reaches a consumer: the targets here are linked
# privately and never installed.

add_library(kvfit_strict INTERFACE)
if(NOT MSVC)
  # Sign conversions: clang counts them to -Wconversion, g++ does not. Eigen's signed sizes meet
  # std's unsigned ones everywhere, so we follow g++.
  target_compile_options(kvfit_strict INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wno-sign-conversion -Wshadow
    $<$<BOOL:${KVFIT_WARNINGS_AS_ERRORS}>:-Werror>)
  # g++ takes a std::variant that is moved for uninitialised memory of what it does not hold.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(kvfit_strict INTERFACE -Wno-maybe-uninitialized)
  endif()
  # g++ 12 takes its own AVX-512 intrinsics for uninitialised reads, and finds overlaps in
  # "literal" + std::string (GCC bug 105651), and dangling initializer lists in std::vector.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(kvfit_strict INTERFACE
      -Wno-uninitialized -Wno-restrict -Wno-dangling-pointer)
  endif()
endif()
if(KVFIT_SANITIZE)
  target_compile_options(kvfit_strict INTERFACE
    -fsanitize=${KVFIT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(kvfit_strict INTERFACE -fsanitize=${KVFIT_SANITIZE})
endif()

if(KVFIT_COVERAGE)
  target_compile_options(kvfit_strict INTERFACE -fprofile-instr-generate -fcoverage-mapping)
  target_link_options(kvfit_strict INTERFACE -fprofile-instr-generate)
endif()

add_library(kvfit_native INTERFACE)
if(KVFIT_NATIVE)
  include(CheckCXXCompilerFlag)
  foreach(flag -march=native -mcpu=native)
    string(MAKE_C_IDENTIFIER "KVFIT_HAS${flag}" has_flag)
    check_cxx_compiler_flag(${flag} ${has_flag})
    if(${has_flag})
      target_compile_options(kvfit_native INTERFACE ${flag})
      break()
    endif()
  endforeach()
endif()

# kvfit_own(TARGET): links the library and holds TARGET to our warnings.
function(kvfit_own target)
  target_link_libraries(${target} PRIVATE kvfit::kvfit kvfit_strict)
  if(TARGET kvfit::io)
    target_link_libraries(${target} PRIVATE kvfit::io)
  endif()
endfunction()

# kvfit_executable(TARGET SOURCES...)
function(kvfit_executable target)
  add_executable(${target} ${ARGN})
  kvfit_own(${target})
endfunction()

# Files of one module of tests, or of one part of the tool, instantiate much the same of Eigen:
# compiled as one unit, that is paid once. The files then share an anonymous namespace. A library,
# for its flag must follow kvfit_strict's.
add_library(kvfit_one_unit INTERFACE)
target_compile_options(kvfit_one_unit INTERFACE -Wno-shadow)
function(kvfit_as_one_unit target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  target_link_libraries(${target} PRIVATE kvfit_one_unit)
endfunction()
