/**
 * The recording of what a workload did to a disk, and the disks that a crash at any of its steps can leave.
 *
 * 1. Applying the first n steps to a copy of the disk at the beginning gives the disk as it was after them.
 * 2. Marks belong to the step before them: the states of a step know the marks that were put before the next step.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CrashState, CrashStatesOptions, Trace, TraceEvent } from "../CrashTrace.ts"
import type { CrashChoices, MemoryDisk } from "../MemoryDisk.ts"
import { chooseBySeed, everyChoice, mixSeeds } from "./crashChoosers.ts"
import { countUnsettled, type CrashChooser, crashedWorld } from "./crashModel.ts"
import { applyEvent, copyWorld, type DiskWorld } from "./diskWorld.ts"

/** How the trace reaches into the disk that it was taken from. */
interface TracedDisk {
  readonly world: DiskWorld
  readonly diskOf: (world: DiskWorld) => MemoryDisk
  readonly chooserOf: (choices: CrashChoices) => CrashChooser
}

/** @internal */
export const recordTrace = <Mark>(disk: TracedDisk): Trace<Mark> => {
  const { diskOf, world: recorded } = disk
  invariant(recorded.observer === undefined, "a disk has one recording at a time")
  const beginning = copyWorld(recorded).world
  const steps: Array<TraceEvent> = []
  const marks: Array<{ readonly step: number; readonly value: Mark }> = []
  const observer = (event: TraceEvent) => {
    steps.push(event)
  }
  recorded.observer = observer

  const marksUpTo = (step: number) => marks.filter((mark) => mark.step <= step).map((mark) => mark.value)
  const stateOf = (world: DiskWorld, step: number, choice: string, chooser: CrashChooser): CrashState<Mark> => {
    const last = steps[step - 1]
    const after = last === undefined ? "before the first step" : `after step ${step} (${last.kind} ${last.path})`
    return {
      step,
      last,
      choice,
      label: `${after}, ${choice}`,
      marks: marksUpTo(step),
      disk: diskOf(crashedWorld(world, chooser))
    }
  }

  /** The disk after each number of steps, from none to all. The world is the same object each time. */
  function* prefixes(): Generator<{ readonly world: DiskWorld; readonly step: number }> {
    const { nodes, world } = copyWorld(beginning)
    yield { world, step: 0 }
    let step = 0
    while (true) {
      const event = steps[step]
      if (event === undefined) return
      applyEvent(world, nodes, event)
      step++
      yield { world, step }
    }
  }

  function* crashStates(options: CrashStatesOptions = {}): Generator<CrashState<Mark>> {
    const { exhaustiveUpTo = 32, perStep = 4, seed = 1, steps: wanted } = options
    for (const { step, world } of prefixes()) {
      if (wanted !== undefined && !wanted(step)) continue
      const { blocks, names, resizes } = countUnsettled(world, 512)
      if (blocks + names + resizes.reduce((sum, changes) => sum + changes, 0) === 0) {
        yield stateOf(world, step, "lost", disk.chooserOf("lost"))
        continue
      }
      const every = everyChoice(world, exhaustiveUpTo)
      if (every === undefined) {
        yield stateOf(world, step, "lost", disk.chooserOf("lost"))
        yield stateOf(world, step, "kept", disk.chooserOf("kept"))
      } else {
        let number = 0
        for (const chooser of every) yield stateOf(world, step, `combination ${number++}`, chooser)
      }
      for (let index = 0; index < perStep; index++) {
        const stateSeed = mixSeeds(seed, step, index)
        yield stateOf(world, step, `seed ${stateSeed}`, chooseBySeed(stateSeed))
      }
    }
  }

  return {
    steps,
    mark: (value) => {
      marks.push({ step: steps.length, value })
    },
    stop: () => {
      if (recorded.observer === observer) recorded.observer = undefined
    },
    crashStates,
    crashAfter: (wanted, choices) => {
      for (const { step, world } of prefixes()) {
        if (step === wanted) return stateOf(world, step, nameOf(choices), disk.chooserOf(choices))
      }
      invariant(false, `a crash comes after 0 ... ${steps.length} steps`)
    },
    diskAfter: (wanted) => {
      for (const { step, world } of prefixes()) if (step === wanted) return diskOf(world)
      invariant(false, `the trace has 0 ... ${steps.length} steps`)
    }
  }
}

const nameOf = (choices: CrashChoices): string =>
  typeof choices === "string" ? choices : typeof choices === "number" ? `seed ${choices}` : "selection"
