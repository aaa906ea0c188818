import type { Clock } from '../observability/clock.ts'
import type { Random } from '../observability/random.ts'
import { type BreakerEvent, createBreakers } from './breaker.ts'
import { createPool, type Pool, type PoolLimits } from './pool.ts'
import { createRamp, type RampOptions } from './ramp.ts'
import { createRefusedKeys } from './refused-keys.ts'
import type { SshDeadlines } from './session.ts'
import { createTakenKeys } from './taken-keys.ts'

export interface TransportOptions {
  readonly clock: Clock
  readonly random: Random
  readonly deadlines: SshDeadlines
  readonly limits?: PoolLimits
  readonly ramp?: RampOptions
  /** Told when a server is left alone, tried again, and well again. */
  readonly onCircuit?: (event: BreakerEvent) => void
}

/** A pool with all that it needs: how a connector, or a command at the terminal, reaches servers. */
export const createTransport = ({ clock, random, deadlines, limits, ramp, onCircuit }: TransportOptions): Pool => {
  const fraction = (): number => random(4).readUInt32BE() / 2 ** 32
  return createPool(
    {
      clock,
      deadlines,
      random: fraction,
      ramp: createRamp(clock, ramp),
      breakers: createBreakers({ clock, random: fraction, ...(onCircuit ? { onChange: onCircuit } : {}) }),
      refusedKeys: createRefusedKeys(clock),
      takenKeys: createTakenKeys(),
    },
    limits,
  )
}
