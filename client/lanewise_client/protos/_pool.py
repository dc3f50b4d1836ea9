"""A descriptor pool of our own for the generated stubs.

Triton's and KServe's clients register messages of the same names (package `inference`)
in protobuf's default pool, which takes each name once. In a pool apart, all of them can
be imported into one process.
"""

from google.protobuf import descriptor_pool

POOL = descriptor_pool.DescriptorPool()
