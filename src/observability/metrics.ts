import { Counter, Gauge, Registry } from 'prom-client'

/**
 * What is counted, by the Prometheus conventions (prom-client 15.1.3, wrapped here and nowhere else). Each connector has a
 * registry of its own. No label holds what a person or a server chose at will: a server is named as the integration names
 * it, and only while something is wrong with it.
 */
export interface Metrics {
  readonly contentType: string
  text(): Promise<string>
  circuitOpened(): void
}

export interface TransportNumbers {
  readonly open: number
  readonly connecting: number
  readonly inUse: number
  /** Servers that are left alone, or tried again. */
  readonly circuits: readonly { readonly server: string; readonly state: string }[]
}

/** A fleet that is down altogether is told by its number; the first of them by name. */
const MOST_NAMES = 1000

export const createMetrics = (transport: () => TransportNumbers): Metrics => {
  const registers = [new Registry()]
  const [registry] = registers
  if (registry === undefined) throw new Error('no registry')
  new Gauge({
    name: 'apono_ssh_connections',
    help: 'SSH connections to servers and jump hosts, by state; those in use are open, too.',
    labelNames: ['state'],
    registers,
    collect() {
      const { open, connecting, inUse } = transport()
      this.set({ state: 'open' }, open)
      this.set({ state: 'connecting' }, connecting)
      this.set({ state: 'in_use' }, inUse)
    },
  })
  new Gauge({
    name: 'apono_ssh_circuits',
    help: 'Servers that could not be reached several times in a row: left alone (open), or due to be tried (half_open).',
    labelNames: ['state'],
    registers,
    collect() {
      const { circuits } = transport()
      for (const state of ['open', 'half_open']) {
        this.set({ state }, circuits.filter((one) => one.state === state).length)
      }
    },
  })
  new Gauge({
    name: 'apono_ssh_circuit_state',
    help: `1 for each server whose circuit is not closed, ${MOST_NAMES} at most.`,
    labelNames: ['server', 'state'],
    registers,
    collect() {
      this.reset()
      for (const { server, state } of transport().circuits.slice(0, MOST_NAMES)) this.set({ server, state }, 1)
    },
  })
  const opened = new Counter({
    name: 'apono_ssh_circuits_opened_total',
    help: 'How often a server was found to be out of reach and left alone.',
    registers,
  })
  return { contentType: registry.contentType, text: () => registry.metrics(), circuitOpened: () => opened.inc() }
}
