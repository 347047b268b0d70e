"""Where a pool of tasks comes from: written by a teacher, screened, chosen by difficulty.

    seeds ─> steer ─> author ─> forms ─> oracle ─> strength ─> overlap, near ─> difficulty ─> pool
             topic    teacher   ast      sandbox   stubs and   benchmarks       student's
                      writes             twice     mutants     and the pool     pass rate

The paper's pool is self-instruct (Wang et al. 2022) from MBPP's training tasks; what was wrong with
it (expected values that change from run to run, silent functions, tests that a stub passes, twins
of the benchmark) is what is screened for here. Every proposed task ends in one named state
(``records.CandidateState``), with the reason, in the run's ledger.
"""
