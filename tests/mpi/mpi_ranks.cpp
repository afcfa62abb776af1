// SPDX-License-Identifier: MIT
#include "kvfit/parallel/mpi.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "mpi/world.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit_test::world;

TEST_CASE("ranks know their number and how many they are", "[mpi]") {
  int rank = -1;
  int size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  kvfit::mpi_ranks ranks = world();
  CHECK(ranks.rank() == rank);
  CHECK(ranks.size() == size);
  kvfit::mpi_ranks moved = std::move(ranks);
  CHECK(moved.rank() == rank);
  CHECK(kvfit_test::on_all(moved, true));
}

TEST_CASE("ranks agree on the failure at the lowest place", "[mpi]") {
  kvfit::mpi_ranks ranks = world();
  CHECK(ranks.agree({}).has_value());
  const auto mine = [&] {
    return kvfit::error{errc::all_masked, "queries", ranks.rank(), 7, "no"};
  };
  const int last = ranks.size() - 1;
  // Each rank fails; places fall with the rank.
  const auto lowest = ranks.agree(mine(), 10 - ranks.rank());
  REQUIRE_FALSE(lowest);
  CHECK(lowest.error().code == errc::all_masked);
  CHECK(lowest.error().argument == "queries");
  CHECK(lowest.error().actual == last);
  CHECK(lowest.error().expected == 7);
  CHECK(lowest.error().detail == "no");
  const auto equal = ranks.agree(mine(), 3);
  REQUIRE_FALSE(equal);
  CHECK(equal.error().actual == 0);
  // One alone fails, at the last place there is.
  const auto one =
      ranks.agree(ranks.rank() == last ? kvfit::result<void>(mine()) : kvfit::result<void>(),
                  std::numeric_limits<kvfit::index_t>::max());
  REQUIRE_FALSE(one);
  CHECK(one.error().actual == last);
}

TEST_CASE("long texts of errors are cut between characters", "[mpi]") {
  kvfit::mpi_ranks ranks = world();
  std::string pi;  // two bytes each
  for (int i = 0; i < 300; ++i) pi += "\xCF\x80";
  const auto cut = ranks.agree(kvfit::error{errc::missing_entry, pi, 1, 2, pi});
  REQUIRE_FALSE(cut);
  CHECK(cut.error().argument == pi.substr(0, 250));
  CHECK(cut.error().detail == pi.substr(0, 508));
}

TEST_CASE("ranks tell equal numbers from different ones", "[mpi]") {
  kvfit::mpi_ranks ranks = world();
  for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    CHECK(ranks.check_same(number, "number"));
    // One bit, on the last rank alone.
    const bool is_other = ranks.size() > 1 && ranks.rank() == ranks.size() - 1;
    const auto same = ranks.check_same(is_other ? number ^ 1U : number, "number");
    CHECK(kvfit_test::error_of_all(ranks, same) ==
          (ranks.size() == 1 ? "none" : "invalid_option: number (must be the same on all ranks)"));
  }
}

TEST_CASE("lists of any length reach every rank, in messages of any length", "[mpi]") {
  for (const kvfit::index_t bytes :
       {kvfit::index_t{1}, kvfit::index_t{7}, kvfit::index_t{64}, kvfit::mpi_ranks::most_message}) {
    kvfit::mpi_ranks ranks = world(bytes);
    std::vector<double> own;  // rank 1 has none
    for (int i = 0; i < 5 * std::abs(ranks.rank() - 1); ++i)
      own.push_back(100.0 * ranks.rank() + i);
    const auto all = kvfit_test::lists_of_all(ranks, own);
    REQUIRE(static_cast<int>(all.size()) == ranks.size());
    for (int r = 0; r < ranks.size(); ++r) {
      const auto& list = all[static_cast<std::size_t>(r)];
      REQUIRE(static_cast<int>(list.size()) == 5 * std::abs(r - 1));
      for (std::size_t i = 0; i < list.size(); ++i)
        CHECK(list[i] == 100.0 * r + static_cast<double>(i));
    }
    for (int from = 0; from < ranks.size(); ++from) {
      std::vector<std::int16_t> numbers(33, static_cast<std::int16_t>(ranks.rank()));
      REQUIRE(ranks.broadcast(std::span(numbers), from));
      CHECK(numbers == std::vector<std::int16_t>(33, static_cast<std::int16_t>(from)));
    }
  }
}

TEST_CASE("a communicator or message length that can't be is refused on all ranks", "[mpi]") {
  const auto null = kvfit::mpi_ranks::over(MPI_COMM_NULL);
  REQUIRE_FALSE(null);
  CHECK(null.error().code == errc::invalid_option);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (const kvfit::index_t wrong : {kvfit::index_t{0}, kvfit::index_t{1} << 31}) {
    // On the last rank alone.
    const auto found = kvfit::mpi_ranks::over(MPI_COMM_WORLD, rank == size - 1 ? wrong : 64);
    REQUIRE_FALSE(found);
    CHECK(found.error().code == errc::invalid_option);
    CHECK(found.error().argument == "message_bytes");
    CHECK(found.error().actual == wrong);
  }
  if (size == 1) return;
  const auto different = kvfit::mpi_ranks::over(MPI_COMM_WORLD, 64 + rank);
  REQUIRE_FALSE(different);
  CHECK(different.error().code == errc::invalid_option);
  MPI_Comm halves = MPI_COMM_NULL;
  MPI_Comm between = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &halves);
  MPI_Intercomm_create(halves, 0, MPI_COMM_WORLD, 1 - rank % 2, 5, &between);
  const auto joined = kvfit::mpi_ranks::over(between);
  CHECK(kvfit::mpi_ranks::over(halves));
  REQUIRE_FALSE(joined);
  CHECK(joined.error().argument == "communicator");
  MPI_Comm_free(&between);
  MPI_Comm_free(&halves);
}

TEST_CASE("what MPI refuses is a typed error", "[mpi]") {
  kvfit::mpi_ranks ranks = world();
  int number = 0;
  const auto refused =
      ranks.broadcast(std::span(&number, 1), ranks.size());  // nobody has that rank
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::communication_failed);
  CHECK(refused.error().argument == "MPI_Bcast");
  CHECK_FALSE(refused.error().detail.empty());
}
