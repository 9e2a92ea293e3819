"""What only a kernel with TLS can show. `make test-ktls` boots one; elsewhere these tests are skipped.

The tests of the transport run there too, over connections that the kernel has taken.
"""
