// SPDX-License-Identifier: MIT
/// All of kvfit but file formats (kvfit/io/*.hpp, which need a JSON library).
#pragma once

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/attention/state.hpp"
#include "kvfit/cache/allocate.hpp"
#include "kvfit/cache/influence.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/parallel/caller.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "kvfit/view/layouts.hpp"
#include "kvfit/view/make_view.hpp"
#include "kvfit/view/row_view.hpp"
#include "kvfit/view/store.hpp"
#include "kvfit/view/writable_view.hpp"
