# What kvfit needs from others: the system's package first, a pinned source second.
include(FetchContent)

if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25)
  set(kvfit_system SYSTEM)  # headers of others are not held to our warnings
endif()

# kvfit_dependency(NAME VERSIONS TARGET REPOSITORY TAG): defines TARGET.
# VERSIONS is a list, best first: a package that promises compatibility within one major version
# answers only to its own major number, so every major that we support is asked for by name. Where
# fetching is forbidden, as package managers do, they chose the version, and any is taken.
macro(kvfit_dependency name versions target repository tag)
  if(NOT TARGET ${target})
    set(kvfit_versions "${versions}")
    if(FETCHCONTENT_FULLY_DISCONNECTED)
      set(kvfit_versions any)
    endif()
    foreach(kvfit_version_wanted ${kvfit_versions})
      if(kvfit_version_wanted STREQUAL "any")
        set(kvfit_version_wanted)
      endif()
      find_package(${name} ${kvfit_version_wanted} CONFIG QUIET)
      if(TARGET ${target})
        message(STATUS "kvfit: ${name} ${${name}_VERSION} from ${${name}_DIR}")
        # Else a project that adds kvfit as a subdirectory could not see what kvfit::kvfit links.
        set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
        break()
      endif()
    endforeach()
    if(NOT TARGET ${target})
      message(STATUS "kvfit: ${name} not on this system; fetching ${repository} ${tag}")
      FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON
        ${kvfit_system})
      FetchContent_MakeAvailable(${name})
    endif()
  endif()
endmacro()

macro(kvfit_need_eigen)
  set(EIGEN_BUILD_TESTING OFF)
  set(EIGEN_BUILD_DOC OFF)
  kvfit_dependency(Eigen3 "5;3.4" Eigen3::Eigen https://gitlab.com/libeigen/eigen.git 3.4.0)
endmacro()

macro(kvfit_need_xsimd)
  kvfit_dependency(xsimd "14;13;12;11;10;9;8.1" xsimd
    https://github.com/xtensor-stack/xsimd.git 13.0.0)
endmacro()

macro(kvfit_need_json)
  kvfit_dependency(nlohmann_json "3.10" nlohmann_json::nlohmann_json
    https://github.com/nlohmann/json.git v3.11.3)
endmacro()

macro(kvfit_need_cli11)
  kvfit_dependency(CLI11 "2.1" CLI11::CLI11 https://github.com/CLIUtils/CLI11.git v2.4.2)
endmacro()

macro(kvfit_need_catch2)
  kvfit_dependency(Catch2 "3;2.13" Catch2::Catch2 https://github.com/catchorg/Catch2.git v3.7.1)
  if(catch2_SOURCE_DIR)  # fetched: its CMake module lies elsewhere than in an installed package
    list(APPEND CMAKE_MODULE_PATH ${catch2_SOURCE_DIR}/extras)
  endif()
endmacro()

macro(kvfit_need_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  kvfit_dependency(benchmark "1.6" benchmark::benchmark_main
    https://github.com/google/benchmark.git v1.9.0)
endmacro()

# The system's MPI, never fetched: it belongs to the machine's network. Defines MPI::MPI_CXX, unless
# KVFIT_MPI is OFF, or AUTO and there is none.
macro(kvfit_find_mpi)
  if(KVFIT_MPI AND NOT TARGET MPI::MPI_CXX)
    set(MPI_CXX_SKIP_MPICXX ON)  # the C interface alone
    if(KVFIT_MPI STREQUAL "AUTO")
      find_package(MPI QUIET COMPONENTS CXX)
    else()
      find_package(MPI REQUIRED COMPONENTS CXX)
    endif()
    if(TARGET MPI::MPI_CXX)
      message(STATUS "kvfit: MPI ${MPI_CXX_VERSION}: kvfit::mpi is offered")
      set_target_properties(MPI::MPI_CXX PROPERTIES IMPORTED_GLOBAL TRUE)
    else()
      message(STATUS "kvfit: no MPI on this system: kvfit::mpi and its tests are left out")
    endif()
  endif()
endmacro()
