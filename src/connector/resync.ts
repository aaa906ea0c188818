import type { Logger } from '../observability/log.ts'
import { DEFAULT_KNOBS } from '../protocol/calls.ts'
import type { ApiClient } from './api-client.ts'
import { type CallDeps, createCaller } from './keep-trying.ts'
import type { KnownGrants } from './known-grants.ts'

/**
 * Reads all grants of this connector from the control plane, at the start and every `resyncEveryMs`. It corrects the timers,
 * and changes no server. A grant that is missing from the list is left to its timer: an error, or a list cut short, is
 * never "no grants".
 */
export interface ResyncDeps extends CallDeps {
  readonly api: ApiClient
  readonly log: Logger
  readonly known: KnownGrants
}

/** More pages than that is a control plane that goes round in circles. */
const MOST_PAGES = 10_000

const readAll = async ({ api, known }: ResyncDeps, signal: AbortSignal): Promise<number> => {
  let after: string | null = null
  let count = 0
  for (let page = 0; page < MOST_PAGES; page++) {
    const { grants, next } = await api.grants(after, signal)
    known.learn(grants, 'listed')
    count += grants.length
    if (next === null) return count
    after = next
  }
  return count
}

export const resyncLoop = async (deps: ResyncDeps, signal: AbortSignal): Promise<void> => {
  const caller = createCaller('resync', deps)
  while (!signal.aborted) {
    const read = await caller.attempt(async ({ knobs }) => {
      const count = await readAll(deps, signal)
      deps.log.debug({ event: 'resynced', grants: count }, 'grants read from the control plane')
      return knobs.resyncEveryMs
    }, signal)
    if (read === null) continue
    // Instances that started together ask apart.
    const wait = Math.max(1000, read.value || DEFAULT_KNOBS.resyncEveryMs) * (0.9 + deps.random() * 0.2)
    await deps.clock.sleep(wait, signal).catch(() => undefined)
  }
}
