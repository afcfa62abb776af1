include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
small_capture(small)
run(0 ${KVFIT} compact small --ratio 4 --method topk --protect-first 3 --protect-last 2 -o result)
run(0 ${SUPPORT} check_result small result topk 4 fp32 3 2)
# The same rows by their numbers, of 96.
run(0 ${KVFIT} compact small --ratio 4 --method topk --protect-rows 95,0,1,2,94 -o named)
run(0 ${SUPPORT} check_result small named topk 4 fp32 3 2)
run(1 ${KVFIT} compact small --ratio 4 --protect-rows 96 -o other)
check(err MATCHES "invalid_position.*protect.rows")
# More protected rows than the budget of 24.
run(1 ${KVFIT} compact small --ratio 4 --protect-first 20 --protect-last 20 -o other)
check(err MATCHES "budget_out_of_range")
check_only_files(small result named)
