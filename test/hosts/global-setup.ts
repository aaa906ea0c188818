import { BASES_VARIABLE, findOptionalBases } from './bases.ts'
import { removeAtExit, removeOwnRun, sweepDeadRuns } from './cleanup.ts'
import { hostImage, IMAGE_VARIABLE } from './image.ts'
import { ownRun, RUN_VARIABLE } from './run.ts'
import { sweepScratch } from './scratch.ts'

/** Before the first test: no leftovers, and an image that every worker finds. After the last: nothing. */
export default async function setup(): Promise<() => void> {
  process.env[RUN_VARIABLE] = ownRun()
  removeAtExit({ signals: false })
  sweepScratch()
  await sweepDeadRuns()
  // `npm test` has looked (prepare.ts); who starts the runner by hand has not.
  process.env[BASES_VARIABLE] ??= await findOptionalBases()
  process.env[IMAGE_VARIABLE] = await hostImage()
  return () => {
    removeOwnRun()
    // Workers that were ended by a signal could not do it themselves.
    sweepScratch()
  }
}
