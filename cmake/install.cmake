# `cmake --install`: headers and how CMake and pkg-config find them. The headers suit every machine and
# lie in share; a binary suits its architecture alone, and lies in lib as a package of its own,
# kvfit_compiled, which kvfit's looks for beside itself.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Parts that `--component NAME` installs: kvfit (headers), kvfit_compiled, kvfit_c (the C library),
# kvfit_c_dev (its header, and how it is found), kvfit_tool, and what the .deb has in its own form,
# kvfit_licence and kvfit_man.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME kvfit)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/kvfit)
set(compiled_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvfit_compiled)

install(DIRECTORY include/kvfit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h*"
  PATTERN "kvfit/c" EXCLUDE)
install(FILES ${kvfit_metal_generated}/kvfit/metal/sources.hpp
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/kvfit/metal)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT kvfit_licence)

# ---- CMake: one set of targets for each optional dependency, so that who does not ask for it needs
# ---- none of it -----------------------------------------------------------------------------------
install(TARGETS kvfit EXPORT kvfit_targets)
install(EXPORT kvfit_targets NAMESPACE kvfit:: FILE kvfitTargets.cmake DESTINATION ${package_dir})
foreach(part io mpi)
  if(TARGET kvfit_${part})
    string(SUBSTRING ${part} 0 1 initial)
    string(SUBSTRING ${part} 1 -1 rest)
    string(TOUPPER ${initial} initial)
    install(TARGETS kvfit_${part} EXPORT kvfit_${part}_targets)
    install(EXPORT kvfit_${part}_targets NAMESPACE kvfit:: FILE kvfit${initial}${rest}Targets.cmake
      DESTINATION ${package_dir})
  endif()
endforeach()

# CMake itself looks in lib and in Debian's lib/<architecture>; any other place is written down.
set(other_libdir ${CMAKE_INSTALL_LIBDIR})
if(other_libdir STREQUAL "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
  set(other_libdir lib)
endif()
configure_package_config_file(cmake/kvfitConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kvfitConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)  # before 1.0 a minor version may break
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfigVersion.cmake
  cmake/kvfitMetal.cmake cmake/metal_cpp.cpp
  DESTINATION ${package_dir})

if(KVFIT_COMPILED)
  install(TARGETS kvfit_compiled EXPORT kvfit_compiled_targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT kvfit_compiled)
  install(EXPORT kvfit_compiled_targets NAMESPACE kvfit:: FILE kvfit_compiledConfig.cmake
    DESTINATION ${compiled_dir} COMPONENT kvfit_compiled)
  # Refused by a build for pointers of another size.
  write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kvfit_compiledConfigVersion.cmake
    COMPATIBILITY ExactVersion)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kvfit_compiledConfigVersion.cmake
    DESTINATION ${compiled_dir} COMPONENT kvfit_compiled)
endif()

if(KVFIT_C)
  set(c_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvfit_c)
  install(TARGETS kvfit_c EXPORT kvfit_c_targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT kvfit_c NAMELINK_COMPONENT kvfit_c_dev
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT kvfit_c
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT kvfit_c_dev)
  install(FILES include/kvfit/c/kvfit.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/kvfit/c
    COMPONENT kvfit_c_dev)
  if(KVFIT_WHEEL)
    install(TARGETS kvfit_c
      LIBRARY DESTINATION . COMPONENT kvfit_wheel EXCLUDE_FROM_ALL
      RUNTIME DESTINATION . COMPONENT kvfit_wheel EXCLUDE_FROM_ALL)
  endif()
  install(EXPORT kvfit_c_targets NAMESPACE kvfit:: FILE kvfit_cConfig.cmake
    DESTINATION ${c_dir} COMPONENT kvfit_c_dev)
  write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kvfit_cConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kvfit_cConfigVersion.cmake
    DESTINATION ${c_dir} COMPONENT kvfit_c_dev)
endif()

# ---- pkg-config -----------------------------------------------------------------------------------
# kvfit_pc(NAME COMPONENT DIRECTORY KIND DESCRIPTION REQUIRES CFLAGS LIBS): installs NAME.pc below
# DIRECTORY; KIND, include or lib, is what of kvfit it points to. Paths start at the file itself, so
# that the tree can be moved.
function(kvfit_pc name component directory kind description requires cflags libs)
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
  if(NOT IS_ABSOLUTE ${directory})
    file(RELATIVE_PATH up /${directory}/pkgconfig /)
    string(REGEX REPLACE "/$" "" up ${up})
    set(pc_prefix "\${pcfiledir}/${up}")
  endif()
  string(TOUPPER ${kind} upper)
  set(pc_dir ${CMAKE_INSTALL_${upper}DIR})
  if(NOT IS_ABSOLUTE ${pc_dir})
    set(pc_dir "\${prefix}/${pc_dir}")
  endif()
  set(pc_dir "${kind}dir=${pc_dir}")
  configure_file(cmake/kvfit.pc.in ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc DESTINATION ${directory}/pkgconfig
    COMPONENT ${component})
endfunction()

kvfit_pc(kvfit kvfit ${CMAKE_INSTALL_DATADIR} include "${PROJECT_DESCRIPTION}"
  "eigen3 >= 3.4, xsimd >= 8.1" "-I\${includedir} -pthread" "-pthread")
if(KVFIT_IO)
  kvfit_pc(kvfit-io kvfit ${CMAKE_INSTALL_DATADIR} include "kvfit's files: safetensors, captures, states"
    "kvfit = ${PROJECT_VERSION}, nlohmann_json >= 3.10" "" "")
endif()
if(KVFIT_COMPILED)
  kvfit_pc(kvfit-compiled kvfit_compiled ${CMAKE_INSTALL_LIBDIR} lib "kvfit, compiled beforehand"
    "kvfit = ${PROJECT_VERSION}" "-DKVFIT_COMPILED" "-L\${libdir} -lkvfit_compiled -pthread")
endif()
if(KVFIT_C)
  set(c_include ${CMAKE_INSTALL_INCLUDEDIR})
  if(NOT IS_ABSOLUTE ${c_include})
    set(c_include "\${prefix}/${c_include}")
  endif()
  kvfit_pc(kvfit-c kvfit_c_dev ${CMAKE_INSTALL_LIBDIR} lib "kvfit for C" "" "-I${c_include}"
    "-L\${libdir} -lkvfit_c")
endif()

if(KVFIT_CPACK)
  include(cmake/packages.cmake)
endif()
