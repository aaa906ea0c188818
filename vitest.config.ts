import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/hosts/global-setup.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // What a test waits for on a server comes late when the machine is busy.
    expect: { poll: { timeout: 10_000 } },
  },
})
