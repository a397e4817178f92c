/** Processes that must not outlive the test, as those of `vmckpt bench` must not outlive it. */
export * from '../../src/bench/processes.js';
