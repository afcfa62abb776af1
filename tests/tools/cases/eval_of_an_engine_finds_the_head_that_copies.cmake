include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)
set(engine ${SOURCE}/examples/data/tinybooks)

# A short document, so that measuring is quick.
file(MAKE_DIRECTORY ${WORK}/short)
foreach(file config.json model.safetensors vocab.json merges.txt)
  file(CREATE_LINK ${engine}/${file} ${WORK}/short/${file} SYMBOLIC COPY_ON_ERROR)
endforeach()
string(CONCAT prefix
  " It was late when they came to the inn, and the rain had not ceased since noon."
  " The secret number of Martin is 4821. The landlord, a stout man with a lantern, led"
  " the horses to the stable, and nobody spoke. The secret number of Alice is 7093. A fire"
  " burned in the low room, and the table was laid for three. The secret number of Walter is"
  " 1560. They ate in silence, and listened to the wind; and when the clock struck ten, each"
  " took a candle and went up the narrow stairs to bed. In the morning the road was white with"
  " frost, and the hills beyond the river stood clear against the sky.")
set(questions "")
foreach(fact "Martin 4821" "Alice 7093" "Walter 1560")
  string(REPLACE " " ";" fact ${fact})
  list(GET fact 0 who)
  list(GET fact 1 number)
  list(APPEND questions
    "{\"q\": \" Question: What is the secret number of ${who}? Answer:\", \"a\": \" ${number}\"}")
endforeach()
string(REPLACE ";" ", " questions "${questions}")
file(WRITE ${WORK}/short/recall.jsonl "{\"prefix\": \"${prefix}\", \"questions\": [${questions}]}\n")

run(0 ${KVFIT} eval --engine short --methods default --rolling default --ratios 4 --json rows.json
  --queries repeat,self_study --budgets uniform,measured)
check(out MATCHES "3 of 3 questions about 1 document answered right")
check(out MATCHES "Reference queries: self_study")
foreach(place 1 2 3 4)
  foreach(name method answer_kl recall queries budgets rounds seconds)
    figure(${name}_${place} rows.json rows ${place} ${name})
  endforeach()
endforeach()
check("${queries_1} ${budgets_1} ${rounds_1}" STREQUAL "repeat uniform 1")
check("${queries_2} ${budgets_2} ${rounds_2}" STREQUAL "repeat uniform 2")
check("${queries_3} ${budgets_3} ${rounds_3}" STREQUAL "self_study measured 1")
check("${method_1}|${method_2}" STREQUAL "default|default rolling")
check("${method_3}|${method_4}" STREQUAL
  "default self_study measured|default self_study measured rolling")
check(answer_kl_3 LESS answer_kl_1)
check(recall_3 EQUAL 1)

# One head of twelve copies, and gets more rows than any other by what the model says without it.
figure(most rows.json settings 1 shares_at_20 11)
foreach(head RANGE 10)
  figure(share rows.json settings 1 shares_at_20 ${head})
  check(share LESS most)
endforeach()
figure(seconds rows.json settings 1 budget_seconds)
check(seconds_3 GREATER_EQUAL seconds)

# Judged on answers besides, too, the head that copies gets the most rows, and no fewer than by text alone.
run(0 ${KVFIT} eval --engine short --methods last --ratios 4 --json facts.json --queries self_study,mixture
  --budgets measured_facts)
foreach(setting 0 1)
  figure(budgets facts.json settings ${setting} budgets)
  check("${budgets}" STREQUAL "measured_facts")
  figure(by_facts facts.json settings ${setting} shares_at_20 11)
  foreach(head RANGE 10)
    figure(share facts.json settings ${setting} shares_at_20 ${head})
    check(share LESS by_facts)
  endforeach()
endforeach()

# Of the context's own queries none comes from a text that could judge.
run(1 ${KVFIT} eval --engine short --methods last --ratios 4 --queries context --budgets measured)
check(err MATCHES "empty_input.*readings")
run(2 ${KVFIT} eval --engine short --queries repeat,context,repeat --budgets uniform,measured)
run(2 ${KVFIT} eval --engine short --queries repeat,repeat --budgets measured)
check(err MATCHES "twice")
run(2 ${KVFIT} eval --engine short --rolling guess)
file(WRITE ${WORK}/short/recall.jsonl "{\"prefix\": \" it was late.\", \"questions\": [${questions}]}\n")
run(1 ${KVFIT} eval --engine short --methods last --ratios 2 --queries self_study)
check(err MATCHES "empty_input.*capitalised")
