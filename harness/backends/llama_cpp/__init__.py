"""llama.cpp as a deployment backend, through the C interface that llama-cpp-python binds."""
