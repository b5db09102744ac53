"""The Cython boundary: owns C++ objects, converts values, releases the GIL, translates errors."""
