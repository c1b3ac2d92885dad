import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [react()],
  // What the build stage knows and the page shows.
  define: { __NODE_VERSION__: JSON.stringify(process.version) },
});
