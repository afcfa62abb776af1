# cpack: an archive, and on Debian one .deb for each part. Paths in it are right where the build was
# configured for /usr: `cmake --preset deb`.
set(CPACK_PACKAGE_NAME kvfit)
set(CPACK_PACKAGE_VENDOR "kvfit authors")
set(CPACK_PACKAGE_CONTACT "kvfit authors <maintainers@kvfit.invalid>" CACHE STRING
  "Who answers for a package: whoever gives it away names himself here")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")  # else put before the line of each .deb
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_SOURCE_IGNORE_FILES "/[.]git/" "/build[^/]*/")
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS  # whatever the umask
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

find_program(KVFIT_DPKG_DEB dpkg-deb DOC "Packs .deb files")
find_program(KVFIT_GZIP gzip DOC "Compresses the documents of .deb files")
mark_as_advanced(KVFIT_DPKG_DEB KVFIT_GZIP)
set(CPACK_GENERATOR TGZ)
if(NOT KVFIT_DPKG_DEB OR NOT KVFIT_GZIP)
  include(CPack)
  return()
endif()

# ---- Debian: libkvfit-dev, libkvfit-compiled-dev, libkvfit-c0.2, libkvfit-c-dev, kvfit ------------
set(CPACK_GENERATOR TGZ DEB)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_COMPONENTS_ALL)

# kvfit_gzip(FILE DIRECTORY COMPONENT NAME): installs FILE as NAME.gz, without a time stamp in it.
function(kvfit_gzip file directory component name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  set(zipped ${CMAKE_CURRENT_BINARY_DIR}/debian/${name}.gz)
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/debian)
  execute_process(COMMAND ${KVFIT_GZIP} -9nc INPUT_FILE ${file} OUTPUT_FILE ${zipped}
    COMMAND_ERROR_IS_FATAL ANY)
  install(FILES ${zipped} DESTINATION ${directory} COMPONENT ${component} EXCLUDE_FROM_ALL)
endfunction()

# kvfit_deb(PART PACKAGE SUMMARY TEXT): a package of the component PART and the documents that Debian
# asks of each.
set(kvfit_debian ${CMAKE_CURRENT_SOURCE_DIR}/packaging/debian)
string(TIMESTAMP kvfit_date "%a, %d %b %Y %H:%M:%S +0000" UTC)  # or SOURCE_DATE_EPOCH
configure_file(packaging/debian/changelog.in ${CMAKE_CURRENT_BINARY_DIR}/debian/changelog @ONLY)
macro(kvfit_deb part package summary text)
  string(TOUPPER ${part} kvfit_upper)
  install(FILES ${kvfit_debian}/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package}
    COMPONENT ${part}_debian EXCLUDE_FROM_ALL)
  kvfit_gzip(${CMAKE_CURRENT_BINARY_DIR}/debian/changelog ${CMAKE_INSTALL_DATADIR}/doc/${package}
    ${part}_debian changelog.Debian)
  kvfit_gzip(${CMAKE_CURRENT_SOURCE_DIR}/CHANGELOG.md ${CMAKE_INSTALL_DATADIR}/doc/${package}
    ${part}_debian changelog)
  list(APPEND CPACK_COMPONENTS_ALL ${part} ${part}_debian)
  foreach(kvfit_component ${part} ${part}_debian)
    string(TOUPPER ${kvfit_component} kvfit_component_upper)
    set(CPACK_COMPONENT_${kvfit_component_upper}_GROUP ${part})
  endforeach()
  set(CPACK_DEBIAN_${kvfit_upper}_PACKAGE_NAME ${package})
  set(CPACK_DEBIAN_${kvfit_upper}_DESCRIPTION "${summary}\n${text}")
endmacro()

set(kvfit_text "kvfit replaces a long transformer KV cache by one 10 to 50 times smaller\n\
that behaves like it: fewer keys, a fitted bias per key, and fitted values.")

kvfit_deb(kvfit libkvfit-dev "fits a small KV cache to a big one (C++20 headers)" "${kvfit_text}\n\
.\nThis package has the headers.")
set(CPACK_DEBIAN_KVFIT_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_KVFIT_PACKAGE_DEPENDS "libeigen3-dev (>= 3.4), libxsimd-dev (>= 8.1)")
set(CPACK_DEBIAN_KVFIT_PACKAGE_SUGGESTS "libkvfit-compiled-dev, mpi-default-dev, nlohmann-json3-dev (>= 3.10)")

if(KVFIT_COMPILED)
  kvfit_deb(kvfit_compiled libkvfit-compiled-dev "fits a small KV cache to a big one (static library)"
    "${kvfit_text}\n.\nThis package has the static library kvfit::compiled. Programs that link it\n\
compile in a tenth of the time.")
  set(CPACK_DEBIAN_KVFIT_COMPILED_PACKAGE_DEPENDS
    "libkvfit-dev (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
endif()

if(KVFIT_C)
  # Named by its soname, as Debian asks, so that two versions can stand side by side.
  set(kvfit_soname ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  kvfit_deb(kvfit_c libkvfit-c${kvfit_soname} "fits a small KV cache to a big one (C library)"
    "${kvfit_text}\n.\nThis package has the shared library for C and for languages that call C.")
  set(CPACK_DEBIAN_KVFIT_C_PACKAGE_SECTION libs)
  # Not by cpack, which would write scripts that call ldconfig.
  set(CPACK_PRE_BUILD_SCRIPTS ${kvfit_debian}/shlibdeps.cmake)
  set(kvfit_control ${CMAKE_CURRENT_BINARY_DIR}/debian/kvfit_c)
  file(CONFIGURE OUTPUT ${kvfit_control}/triggers CONTENT "activate-noawait ldconfig\n")
  file(CONFIGURE OUTPUT ${kvfit_control}/shlibs
    CONTENT "libkvfit_c ${kvfit_soname} libkvfit-c${kvfit_soname} (>= ${PROJECT_VERSION})\n")
  set(CPACK_DEBIAN_KVFIT_C_PACKAGE_CONTROL_EXTRA "${kvfit_control}/triggers;${kvfit_control}/shlibs")
  kvfit_deb(kvfit_c_dev libkvfit-c-dev "fits a small KV cache to a big one (C library, development)"
    "${kvfit_text}\n.\nThis package has what programs for the C library are compiled with. They need\n\
neither C++20 nor Eigen.")
  set(CPACK_DEBIAN_KVFIT_C_DEV_PACKAGE_DEPENDS
    "libkvfit-c${kvfit_soname} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
endif()

if(TARGET kvfit_tool)
  kvfit_deb(kvfit_tool kvfit "fits a small KV cache to a big one (command line tool)"
    "${kvfit_text}\n.\nThis package has the command line tool, which compacts captures of caches,\n\
measures what that costs, and looks for good settings.")
  set(CPACK_DEBIAN_KVFIT_TOOL_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_KVFIT_TOOL_PACKAGE_SHLIBDEPS ON)
  kvfit_gzip(${CMAKE_CURRENT_SOURCE_DIR}/tools/kvfit.1 ${CMAKE_INSTALL_MANDIR}/man1
    kvfit_tool_debian kvfit.1)
endif()

include(CPack)
