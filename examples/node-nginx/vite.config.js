import preact from '@preact/preset-vite';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [preact()],
  // What the build stage knows and the page shows.
  define: { __NODE_VERSION__: JSON.stringify(process.version) },
});
