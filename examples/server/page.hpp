// SPDX-License-Identifier: MIT
/// The status page: one file of HTML that asks /slots and /health once a second.
#pragma once

namespace server {

inline constexpr const char* status_page = R"html(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>kvfit server</title>
<style>
body { font: 15px system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; }
th, td { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ccc; }
#state { margin: 1em 0; }
</style></head><body><h1>kvfit server</h1><div id="state">…</div>
<table><thead><tr><th>Slot</th><th>State</th><th>Logical length</th><th>Physical length</th>
<th>Bytes</th><th>Compactions</th><th>Held-out error</th><th>Seconds</th><th>Last refusal</th>
</tr></thead><tbody id="slots"></tbody></table>
<script>
const state = document.getElementById("state"), body = document.getElementById("slots");
async function look() {
  try {
    const answer = await fetch("/slots");
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error.message);
    body.replaceChildren(...said.slots.map(s => {
      const row = document.createElement("tr");
      const last = s.last_compaction;
      for (const cell of [s.id, s.is_compacting ? "compacting" : s.is_busy ? "busy" : "idle",
                          s.tokens, s.rows, s.bytes, s.compactions,
                          last ? last.held_out_error?.toPrecision(3) : "",
                          last ? last.seconds.toFixed(3) : "", s.refusal]) {
        row.appendChild(document.createElement("td")).textContent = cell ?? "";
      }
      return row;
    }));
    state.textContent = "Serving.";
  } catch (why) { state.textContent = "No answer: " + why.message; }
  setTimeout(look, 1000);
}
look();
</script></body></html>
)html";

}  // namespace server
