// The whole test framework: TEST registers, CHECK* ends the program at the first failure, from any
// thread, so that a sanitizer or a debugger shows the stack. A test file ends with
//
//   int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
//
// and its program runs all its tests, or those whose name contains the first argument.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace clipper::testing {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> registered;
  return registered;
}

inline bool add(const Test& test) {
  tests().push_back(test);
  return true;
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  std::abort();
}

template <typename Value>
std::string show(const Value& value) {
  std::ostringstream text;
  if constexpr (requires { text << value; }) {
    text << value;
  } else if constexpr (std::is_enum_v<Value>) {
    text << static_cast<long long>(value);
  } else {
    text << "(a value that cannot be printed)";
  }
  return text.str();
}

inline int run(int argc, char** argv) {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  for (const Test& test : tests()) {
    if (std::string_view(test.name).find(wanted) == std::string_view::npos) continue;
    std::fprintf(stderr, "%s\n", test.name);
    test.body();
  }
  return EXIT_SUCCESS;
}

}  // namespace clipper::testing

#define TEST(name)                                                                                \
  static void name();                                                                             \
  [[maybe_unused]] static const bool name##_is_registered = clipper::testing::add({#name, name}); \
  static void name()

#define CHECK(condition) \
  ((condition) ? void() : clipper::testing::fail(__FILE__, __LINE__, "not so: " #condition))

#define CHECK_EQ(left, right)                                                               \
  do {                                                                                      \
    const auto& left_value = (left);                                                        \
    const auto& right_value = (right);                                                      \
    if (!(left_value == right_value)) {                                                     \
      clipper::testing::fail(__FILE__, __LINE__,                                            \
                             #left " is " + clipper::testing::show(left_value) + ", but " + \
                                 #right " is " + clipper::testing::show(right_value));      \
    }                                                                                       \
  } while (false)

#define CHECK_NEAR(left, right, tolerance)                                           \
  do {                                                                               \
    const double left_number = static_cast<double>(left);                            \
    const double right_number = static_cast<double>(right);                          \
    if (!(std::abs(left_number - right_number) <= static_cast<double>(tolerance))) { \
      clipper::testing::fail(__FILE__, __LINE__,                                     \
                             #left " is " + clipper::testing::show(left_number) +    \
                                 ", not near " #right ", which is " +                \
                                 clipper::testing::show(right_number));              \
    }                                                                                \
  } while (false)

#define CHECK_THROWS(expression, Exception)                                                      \
  do {                                                                                           \
    bool threw = false;                                                                          \
    try {                                                                                        \
      (void)(expression);                                                                        \
    } catch (const Exception&) {                                                                 \
      threw = true;                                                                              \
    }                                                                                            \
    if (!threw) clipper::testing::fail(__FILE__, __LINE__, #expression " threw no " #Exception); \
  } while (false)
