include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
small_capture(small)
set(measure eval small --methods topk,omp --ratios 2,4)
run(0 ${KVFIT} ${measure} --json plain.json)
figure(error plain.json rows 3 output_error)
figure(worst plain.json rows 3 output_error_worst)

# What holds says so, and everything else is as without.
run(0 ${KVFIT} ${measure} --json rows.json --html page.html
  --require "omp@4: output_error <= ${error}, output_error >= ${error}"
  --require "topk@2: mass_error < 1e6, cosine >= -1, milliseconds >= 0, output_error_max > 0")
check_silent(err)
check(out MATCHES "\nall 6 required conditions hold\n$")
figure(same rows.json rows 3 output_error)
check(same STREQUAL error)
run(0 ${KVFIT} ${measure} --require "omp@4: output_error_worst <= ${worst}")
check(out MATCHES "\nthe required condition holds\n$")

# What falls short is a line each, behind the table, and all files are there.
run(1 ${KVFIT} ${measure} --json short.json --html short.html --svg short.svg
  --require "omp@4: output_error <= 0.001, cosine >= 2, mass_error >= 0"
  --require "omp@2: output_error < 0")
check_silent(err)
check(out MATCHES "method.*\n\nrequired omp@4: output_error <= 0.001, measured [0-9.]+\n")
check(out MATCHES "\nrequired omp@4: cosine >= 2, measured [0-9.]+\nrequired omp@2: output_error < 0, measured [0-9.]+\n$")
check(NOT out MATCHES "hold")
foreach(file short.json short.html short.svg page.html)
  check(EXISTS ${WORK}/${file})
endforeach()
figure(same short.json rows 3 output_error)
check(same STREQUAL error)

# Rows that were measured before are judged, too.
file(SHA256 ${WORK}/short.json before)
run(1 ${KVFIT} ${measure} --json short.json --resume --require "topk@4:output_error<0")
check(out MATCHES "\nrequired topk@4: output_error < 0, measured [0-9.]+\n$")
file(SHA256 ${WORK}/short.json after)
check(before STREQUAL after)

# Every row of a method: of all settings and all captures.
file(COPY_FILE ${WORK}/small ${WORK}/copy)
run(1 ${KVFIT} eval small copy --methods omp --ratios 4 --set held_out=0,0.25 --require "omp@4: cosine > 1")
foreach(setting 0 0.25)
  foreach(capture small copy)
    check(out MATCHES "required omp@4: cosine > 1, measured [0-9.]+ .omp{held_out=${setting}}, ${capture}.\n")
  endforeach()
endforeach()
run(1 ${KVFIT} eval small --methods omp --ratios 4 --set held_out=0,0.25
  --require "omp{held_out=0.25}@4: cosine > 1")
check(out MATCHES "\nrequired omp{held_out=0.25}@4: cosine > 1, measured [0-9.]+\n$")

# Held against another.
run(1 ${KVFIT} ${measure} --require "topk@4: against.output_error <= 0.5, against.mass_worse >= 0")
check(out MATCHES "\nrequired topk@4: against.output_error <= 0.5, measured [0-9.]+\n$")

# Test queries alone can meet a requirement; NaN can't.
small_capture(bare no_test)
run(1 ${KVFIT} eval bare --methods topk --ratios 4 --json none.json --require "topk@4: cosine <= 2")
check(err MATCHES "bare: missing_entry: q_test .--require is about test queries alone")
check_silent(out)
check(NOT EXISTS ${WORK}/none.json)
