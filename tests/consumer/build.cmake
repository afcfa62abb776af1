# Configures, builds and runs the consumer project in one WAY: package, subdirectory or fetch; c: the
# project that is C alone, with find_package(kvfit_c).
cmake_minimum_required(VERSION 3.22)
set(build ${WORK}/${WAY}${TYPE})
file(REMOVE_RECURSE ${build})  # what an earlier run built must not help this one
set(arguments -DWAY=${WAY} -DCMAKE_BUILD_TYPE=${TYPE} "-DCMAKE_CXX_FLAGS=${FLAGS}"
  -DEXPECT_VERSION=${VERSION})
if(TOOLCHAIN)
  list(APPEND arguments -DCMAKE_TOOLCHAIN_FILE=${TOOLCHAIN})
else()
  list(APPEND arguments -DCMAKE_CXX_COMPILER=${COMPILER})
endif()
if(WAY STREQUAL "c")
  if(NOT "c" IN_LIST PARTS)
    message("SKIPPED: the component c is not installed")
    return()
  endif()
  set(PROJECT ${PROJECT}/../project_c)
  set(arguments -DCMAKE_BUILD_TYPE=${TYPE} -DEXPECT_VERSION=${VERSION}
    -DCMAKE_PREFIX_PATH=${INSTALLED} -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON)
  if(TOOLCHAIN)
    list(APPEND arguments -DCMAKE_TOOLCHAIN_FILE=${TOOLCHAIN})
  endif()
endif()

if(WAY STREQUAL "package")
  list(APPEND arguments -DCMAKE_PREFIX_PATH=${INSTALLED})
elseif(WAY STREQUAL "subdirectory")
  list(REMOVE_ITEM PARTS c)  # as kvfit::compiled, and with it
  list(APPEND PARTS compiled)  # linked within the build in any case
  list(APPEND arguments -DKVFIT_SOURCE=${KVFIT_SOURCE})
elseif(WAY STREQUAL "fetch")
  # The sources as they are, whether committed or not, under a tag of a repository of their own.
  find_program(GIT git)
  if(NOT GIT)
    message("SKIPPED: no git")
    return()
  endif()
  set(PARTS "")
  file(MAKE_DIRECTORY ${build})
  set(repository ${build}/repository.git)
  set(git ${GIT} --git-dir=${repository} --work-tree=${KVFIT_SOURCE} -c user.name=consumer
    -c user.email=consumer@localhost -c core.autocrlf=false -c core.safecrlf=false
    -c commit.gpgSign=false -c tag.gpgSign=false)
  foreach(step "init;--quiet" "add;CMakeLists.txt;LICENSE;cmake;include;src"
      "commit;--quiet;--message=kvfit" "tag;v${VERSION}")
    execute_process(COMMAND ${git} ${step} WORKING_DIRECTORY ${KVFIT_SOURCE}
      COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
  list(APPEND arguments -DKVFIT_URL=file://${repository} -DKVFIT_TAG=v${VERSION})
endif()

execute_process(COMMAND ${CMAKE_COMMAND} -S ${PROJECT} -B ${build} -G ${GENERATOR} ${arguments}
    "-DPARTS=${PARTS}" COMMAND_ERROR_IS_FATAL ANY)
set(config)
if(TYPE)
  set(config --config ${TYPE})
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${build} ${config} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${build} ${config} --target run
  COMMAND_ERROR_IS_FATAL ANY)
