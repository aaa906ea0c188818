import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'

/**
 * How far the control plane's clock is from ours. Every answer corrects it: a clock that is set right an hour after the start
 * must not leave certificates an hour off. Beyond a minute one of the two is wrong, and nobody here can tell which: then no
 * access is given, and ends go on.
 */
export interface Skew {
  /** Server time minus ours, milliseconds; 0 until the first answer. */
  ms(): number
  isSane(): boolean
  /** The control plane's clock, as it was when our monotonic clock said `at`. */
  observe(serverTime: string, at: number): void
  /** Our clock, corrected. Milliseconds since 1970. */
  now(): number
}

const TOLD_MS = 2000
export const SANE_MS = 60_000

type Judgement = 'right' | 'off' | 'wrong'

const judge = (ms: number): Judgement => {
  if (Math.abs(ms) > SANE_MS) return 'wrong'
  return Math.abs(ms) > TOLD_MS ? 'off' : 'right'
}

/** One line when the judgement changes, and none for each second more. */
const tell = (log: Logger, judgement: Judgement, skewMs: number): void => {
  const fields = { event: `clock_${judgement}`, skewMs }
  if (judgement === 'right') log.info(fields, 'our clock and the control plane’s agree')
  else if (judgement === 'off') log.warn(fields, 'our clock and the control plane’s are more than 2 s apart')
  else
    log.error(fields, 'our clock and the control plane’s are more than 60 s apart: no access is given until they agree')
}

export const createSkew = (clock: Clock, log: Logger): Skew => {
  let skewMs = 0
  let judgement: Judgement = 'right'
  return {
    ms: () => skewMs,
    isSane: () => judgement !== 'wrong',
    observe: (serverTime, at) => {
      skewMs = Math.round(Date.parse(serverTime) + (clock.monotonic() - at) - clock.now())
      if (judge(skewMs) === judgement) return
      judgement = judge(skewMs)
      tell(log, judgement, skewMs)
    },
    now: () => clock.now() + skewMs,
  }
}
