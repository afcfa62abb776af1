include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
set(engine ${SOURCE}/examples/data/tinybooks)
# Of 16 questions about four documents the full cache answers all. Without rows by attention, or ranked without the
# queries held out, a fact or more is lost (docs/queries.md, What decides).
run(0 ${KVFIT} eval --engine ${engine} --documents 4 --methods default --ratios 20 --queries mixture
  --budgets measured --require "default@20: recall >= 0.98, answer_kl <= 0.02, kl <= 0.022")
