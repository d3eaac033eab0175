"""A gang: one process per rank, forked from a warm forkserver, commanded over pipes, watched through shared memory."""
