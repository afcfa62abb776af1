# `cmake --install`: headers, the targets kvfit::kvfit, kvfit::io, kvfit::mpi and kvfit::compiled, and
# how to find them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME kvfit)  # `--component kvfit` installs the library alone
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/kvfit)  # share, not lib: headers suit every machine

install(DIRECTORY include/kvfit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h*")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(TARGETS kvfit EXPORT kvfit_targets)
install(EXPORT kvfit_targets NAMESPACE kvfit:: FILE kvfitTargets.cmake DESTINATION ${package_dir})
if(KVFIT_IO)
  # A set of its own, so that who does not ask for io needs no JSON library.
  install(TARGETS kvfit_io EXPORT kvfit_io_targets)
  install(EXPORT kvfit_io_targets NAMESPACE kvfit:: FILE kvfitIoTargets.cmake
    DESTINATION ${package_dir})
endif()
if(TARGET kvfit_mpi)  # likewise
  install(TARGETS kvfit_mpi EXPORT kvfit_mpi_targets)
  install(EXPORT kvfit_mpi_targets NAMESPACE kvfit:: FILE kvfitMpiTargets.cmake
    DESTINATION ${package_dir})
endif()

if(KVFIT_COMPILED)  # with a place of its own: a binary suits its machine's architecture alone
  install(TARGETS kvfit_compiled EXPORT kvfit_compiled_targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT kvfit_compiled_targets NAMESPACE kvfit:: FILE kvfitCompiledTargets.cmake
    DESTINATION ${package_dir})
endif()

configure_package_config_file(cmake/kvfitConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfig.cmake INSTALL_DESTINATION ${package_dir})
set(architecture ARCH_INDEPENDENT)
if(KVFIT_COMPILED)
  set(architecture)
endif()
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kvfitConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ${architecture})  # before 1.0 a minor version may break
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/kvfitConfigVersion.cmake
  DESTINATION ${package_dir})
