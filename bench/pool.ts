import { randomBytes } from 'node:crypto'
import { systemClock } from '../src/observability/clock.ts'
import type { LoginKey } from '../src/secrets/private-key.ts'
import { hostKeyRules } from '../src/ssh/host-keys.ts'
import type { Pool } from '../src/ssh/pool.ts'
import type { Route } from '../src/ssh/route.ts'
import { createTransport } from '../src/ssh/transport.ts'
import type { TestHost } from '../test/hosts/hosts.ts'
import { plainKey } from '../test/ssh/plain-key.ts'
import { DEADLINES } from './connect.ts'

/** The product's own pool, as a connector has it. */
export const newPool = (): Pool => createTransport({ clock: systemClock, random: randomBytes, deadlines: DEADLINES })

export type Target = Pick<TestHost, 'address' | 'port' | 'hostKeys' | 'connectorKey'>

/** The key is opened once for all, as a connector's cache has it. */
const keys = new Map<string, LoginKey>()
const keyOf = (text: string): LoginKey => {
  const key = keys.get(text) ?? plainKey(text)
  keys.set(text, key)
  return key
}

export const routeTo = (host: Target, user = 'apono'): Route => ({
  jumps: [],
  target: {
    server: { host: host.address, port: host.port, user, addresses: [{ address: host.address, family: 4 }] },
    key: { keys: [keyOf(host.connectorKey)], version: 'v1' },
    rules: hostKeyRules({ ...host, host: host.address }, 'pinned', null),
  },
})
