# SPDX-License-Identifier: MIT
# Run by cpack before it packs: what libkvfit_c depends on, by dpkg-shlibdeps. cpack would run that
# itself, but then writes maintainer scripts that call ldconfig, for which Debian has a trigger.
if(NOT ";${CPACK_COMPONENTS_ALL};" MATCHES ";kvfit_c;")
  return()
endif()
file(GLOB_RECURSE kvfit_library "${CPACK_TEMPORARY_DIRECTORY}/kvfit_c/*/libkvfit_c.so.*.*.*")
find_program(SHLIBDEPS_EXECUTABLE dpkg-shlibdeps)
if(NOT kvfit_library)
  message(FATAL_ERROR "libkvfit_c is not among what is packed")
elseif(NOT SHLIBDEPS_EXECUTABLE)
  message(WARNING "libkvfit-c's package names no dependencies: dpkg-shlibdeps, of dpkg-dev, is missing")
else()
  set(kvfit_work ${CPACK_TEMPORARY_DIRECTORY}/shlibdeps)
  file(MAKE_DIRECTORY ${kvfit_work}/debian)
  file(WRITE ${kvfit_work}/debian/control "")
  execute_process(COMMAND ${SHLIBDEPS_EXECUTABLE} -O -e${kvfit_library}
    WORKING_DIRECTORY ${kvfit_work} OUTPUT_VARIABLE kvfit_depends COMMAND_ERROR_IS_FATAL ANY
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(REMOVE_RECURSE ${kvfit_work})
  if(NOT kvfit_depends MATCHES "^shlibs:Depends=(.+)$")
    message(FATAL_ERROR "dpkg-shlibdeps says: ${kvfit_depends}")
  endif()
  set(CPACK_DEBIAN_KVFIT_C_PACKAGE_DEPENDS "${CMAKE_MATCH_1}")
endif()
