/** The guest's console, which `vmckpt bench` reads as well. */
export * from '../../src/bench/console.js';
