/** Roughly what a build of this app leaves on disk. */
export const parts = [
  { name: 'nginx and its base image', bytes: 48_000_000, shipped: true },
  { name: 'dist/: the built page', bytes: 40_000, shipped: true },
  { name: 'node and npm', bytes: 130_000_000, shipped: false },
  { name: 'node_modules', bytes: 60_000_000, shipped: false },
  { name: 'src/', bytes: 3_000, shipped: false },
];
