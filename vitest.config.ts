import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/hosts/global-setup.ts'],
    // Most of a test's time is waiting for a server.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Stories on servers of their own run two at a time: most of each is waiting.
    maxConcurrency: 2,
    // What a test waits for on a server comes late when the machine is busy.
    expect: { poll: { timeout: 10_000 } },
  },
})
