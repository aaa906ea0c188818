import { type DestinationStream, type Logger, pino } from 'pino'

export type { Logger }

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/**
 * JSON lines with a constant `msg` and an `event`; everything that varies is a field.
 *
 * Secrets stay out because they are never passed in (see `Secret` in `src/secrets/`): pino's redaction covers one
 * level of one spelling and never message text, so it is not what we rely on.
 */
export const createLogger = (level: LogLevel, destination?: DestinationStream): Logger => {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime }
  return destination ? pino(options, destination) : pino(options)
}
