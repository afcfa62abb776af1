include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
small_capture(small)
run(0 ${KVFIT} eval small --methods topk,omp,default --ratios 4,8 --json rows.json)  # omp is there
check(out MATCHES "Against omp, head by head")
run(0 ${SUPPORT} check_against rows.json omp)
run(0 ${KVFIT} eval small --methods topk,omp --ratios 4 --set omp:norm_power=0,1 --json rows.json
  --against "omp{norm_power=1}")
run(0 ${SUPPORT} check_against rows.json "omp{norm_power=1}")
run(0 ${KVFIT} eval small --methods topk,default --ratios 4 --json rows.json)
check(NOT out MATCHES "Against")
file(READ ${WORK}/rows.json json)
check(NOT json MATCHES "against")
run(2 ${KVFIT} eval small --methods topk,default --against omp)
check(err MATCHES "omp is not measured here")
