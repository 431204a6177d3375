//! BareLM on Linux.
