/**
 * Every order in which several processes can go through the steps of a protocol over shared memory, and every moment in
 * which one of them can be killed.
 *
 * The code under test is plain JavaScript that cannot be stopped in the middle. It is run again instead: all that it
 * learns from outside are the answers of its steps (an operation on the memory, a question to the system, a look at
 * the clock), so the same answers bring it to the same place. A place is the answers up to there; running the code with
 * them, up to where it asks for one more, tells which step comes next. That is done once for each place. A state is the
 * memory and the place of each process; orders that lead to the same state are followed once.
 */
import type { ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Clock, Effect, Exit, Random, References, Scope } from "effect"

/** What a process sees of the world. */
export interface Surroundings {
  readonly self: ProcessIdentity
  readonly region: SharedRegion
  readonly liveness: ProcessLiveness["Service"]
  /** Says how far the process is; part of the step before. */
  readonly mark: (label: string) => void
  /** Remembers a value, for the checks; part of the step before. */
  readonly note: (name: string, value: bigint) => void
  /** A step that does nothing: others can be between what is before and what is behind it. */
  readonly pause: () => void
  /** One step. Time stands still otherwise. */
  readonly advance: (millis: number) => void
}

export type Program = (surroundings: Surroundings) => Effect.Effect<void, never, Scope.Scope>

export interface PartyState {
  readonly self: ProcessIdentity
  readonly status: "running" | "done" | "killed"
  readonly marks: ReadonlyArray<string>
  readonly notes: ReadonlyMap<string, bigint>
}

export interface WorldState {
  readonly words: ReadonlyMap<number, bigint>
  readonly millis: number
  readonly parties: ReadonlyArray<PartyState>
}

export interface Exploration {
  readonly words?: ReadonlyMap<number, bigint> | undefined
  readonly parties: ReadonlyArray<Program>
  /** How many of the parties may be killed; 0 by default. */
  readonly kills?: number | undefined
  /** The clock is looked at in a step of its own: needed where somebody advances it. */
  readonly isTimed?: boolean | undefined
  /** Holds in every state. */
  readonly check: (state: WorldState) => void
  /** Holds when everybody is done or killed. */
  readonly checkEnd: (state: WorldState) => void
}

const regionBytes = 65_536
const noBuffer = new SharedArrayBuffer(0)
const firstPid = 101

/** Thrown where a process is cut off. */
const cutOff = new Error("cut off here")

/** What a step does to the world while it is taken. */
class World implements WorldState {
  words: ReadonlyMap<number, bigint>
  millis: number
  readonly parties: Array<PartyState>
  /** The memory as text; worlds that differ in their processes only share it, as they share the memory. */
  private memory: string | undefined

  constructor(words: ReadonlyMap<number, bigint>, millis: number, parties: ReadonlyArray<PartyState>, memory?: string) {
    this.words = words
    this.millis = millis
    this.parties = [...parties]
    this.memory = memory
  }

  load(offset: number): bigint {
    return this.words.get(offset) ?? 0n
  }

  store(offset: number, value: bigint): void {
    const words = new Map(this.words)
    if (value === 0n) words.delete(offset)
    else words.set(offset, BigInt.asUintN(64, value))
    this.words = words
    this.memory = undefined
  }

  isAlive({ birth, pid }: ProcessIdentity): boolean {
    return pid !== 0 &&
      this.parties.some(({ self, status }) =>
        self.pid === pid && (birth === 0n || self.birth === birth) && status !== "killed"
      )
  }

  /** Takes the next step of a party. */
  stepped(index: number): World {
    const next = new World(this.words, this.millis, this.parties, this.memory)
    const place = this.parties[index]
    if (!(place instanceof Place) || place.step === undefined) throw new Error("this party has no step to take")
    next.parties[index] = place.after(place.step(next))
    return next
  }

  killed(index: number): World {
    const next = new World(this.words, this.millis, this.parties, this.memory)
    const place = this.parties[index]
    if (place instanceof Place) next.parties[index] = place.killed
    return next
  }

  get running(): ReadonlyArray<number> {
    return this.parties.flatMap(({ status }, index) => status === "running" ? [index] : [])
  }

  get kills(): number {
    return this.parties.filter(({ status }) => status === "killed").length
  }

  get key(): string {
    this.memory ??= [...this.words].sort(([a], [b]) => a - b).join(" ")
    let key = `${this.memory} ${this.millis}`
    for (const party of this.parties) if (party instanceof Place) key += ` ${party.number}`
    return key
  }
}

type Step = (world: World) => unknown

const steadyRandom: Random.Random = { nextIntUnsafe: () => 5, nextDoubleUnsafe: () => 0.25 }

let nextNumber = 1
const endNumbers = new Map<string, number>()

const numberOf = (end: string): number => {
  const number = endNumbers.get(end) ?? nextNumber++
  endNumbers.set(end, number)
  return number
}

/** How far a process is. */
class Place implements PartyState {
  readonly self: ProcessIdentity
  readonly program: Program
  readonly isTimed: boolean
  readonly answers: ReadonlyArray<unknown>
  /** What comes next, `undefined` when the process has ended. */
  readonly step: Step | undefined
  readonly marks: ReadonlyArray<string>
  readonly notes: ReadonlyMap<string, bigint>
  readonly status: PartyState["status"]
  /** Places that differ in nothing that matters have the same one. */
  readonly number: number
  private readonly places = new Map<string, Place>()

  constructor(
    self: ProcessIdentity,
    program: Program,
    isTimed: boolean,
    answers: ReadonlyArray<unknown>,
    wasKilled: boolean
  ) {
    this.self = self
    this.program = program
    this.isTimed = isTimed
    this.answers = answers
    const { marks, notes, step } = runUpTo(self, program, isTimed, answers)
    this.marks = marks
    this.notes = notes
    this.step = wasKilled ? undefined : step
    this.status = wasKilled ? "killed" : step === undefined ? "done" : "running"
    // What a process was answered decides what it does next, unless it does nothing any more.
    this.number = this.status === "running"
      ? nextNumber++
      : numberOf([self.pid, this.status, ...marks, ...[...notes].flat()].join(" "))
  }

  after(answer: unknown): Place {
    const known = this.places.get(String(answer))
    if (known !== undefined) return known
    const place = new Place(this.self, this.program, this.isTimed, [...this.answers, answer], false)
    this.places.set(String(answer), place)
    return place
  }

  get killed(): Place {
    const known = this.places.get("killed")
    if (known !== undefined) return known
    const place = new Place(this.self, this.program, this.isTimed, this.answers, true)
    this.places.set("killed", place)
    return place
  }
}

interface Run {
  /** Where it was cut off. */
  readonly step: Step | undefined
  readonly marks: ReadonlyArray<string>
  readonly notes: ReadonlyMap<string, bigint>
}

/** Runs a program with the answers that it has had, up to the step for which there is none. */
const runUpTo = (self: ProcessIdentity, program: Program, isTimed: boolean, answers: ReadonlyArray<unknown>): Run => {
  let cursor = 0
  // What was answered before was answered to the same step.
  return run(self, program, isTimed, () => cursor < answers.length ? { answer: answers[cursor++] } : undefined)
}

/** Runs a program whose steps are answered by `answerTo`, up to the first one that is not. */
const run = (
  self: ProcessIdentity,
  program: Program,
  isTimed: boolean,
  answerTo: (step: Step) => { readonly answer: unknown } | undefined
): Run => {
  const marks: Array<string> = []
  const notes = new Map<string, bigint>()
  let step: Step | undefined

  const take = <A>(act: (world: World) => A): A => {
    const answered = step === undefined ? answerTo(act) : undefined
    // The answer to a step is what that step has answered.
    if (answered !== undefined) return answered.answer as A
    // Finalizers and the like come here again.
    step ??= act
    throw cutOff
  }
  const region: SharedRegion = {
    name: "/app.db.fsqlite-shm",
    bytes: regionBytes,
    medium: "memory",
    identity: "the only one",
    buffer: noBuffer,
    load: (offset) => take((world) => world.load(offset)),
    store: (offset, value) => take((world) => world.store(offset, value)),
    compareExchange: (offset, expected, replacement) =>
      take((world) => {
        const found = world.load(offset)
        if (found === expected) world.store(offset, replacement)
        return found
      }),
    add: (offset, delta) =>
      take((world) => {
        const found = world.load(offset)
        world.store(offset, found + delta)
        return found
      }),
    copy: (offset, length) => {
      const bytes = new Uint8Array(length)
      const view = new DataView(bytes.buffer)
      for (let at = 0; at < length; at += 8) view.setBigUint64(at, region.load(offset + at), true)
      return bytes
    },
    notify: () => 0,
    wait: () => Effect.die(new Error("nobody waits here"))
  }
  const whileRunning = (act: () => void) => {
    if (step === undefined) act()
  }
  const surroundings: Surroundings = {
    self,
    region,
    liveness: { self, isAlive: (process) => Effect.sync(() => take((world) => world.isAlive(process))) },
    mark: (label) => whileRunning(() => marks.push(label)),
    note: (name, value) => whileRunning(() => notes.set(name, value)),
    pause: () => take(() => undefined),
    advance: (millis) =>
      take((world) => {
        world.millis += millis
      })
  }
  const now = () => isTimed ? take((world) => world.millis) : startMillis
  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: now,
    currentTimeMillis: Effect.sync(now),
    currentTimeNanosUnsafe: () => BigInt(now()) * 1_000_000n,
    currentTimeNanos: Effect.sync(() => BigInt(now()) * 1_000_000n),
    monotonicTimeNanosUnsafe: () => 0n,
    monotonicTimeNanos: Effect.succeed(0n),
    sleep: () => Effect.die(new Error("nobody sleeps here"))
  }
  const exit = Effect.runSyncExit(
    program(surroundings).pipe(
      Scope.provide(Scope.makeUnsafe()),
      Effect.provideService(Clock.Clock, clock),
      Effect.provideService(Random.Random, steadyRandom),
      Effect.provideService(References.MinimumLogLevel, "None")
    )
  )
  if (step === undefined && Exit.isFailure(exit)) throw new Error(`process ${self.pid} failed`, { cause: exit.cause })
  return { step, marks, notes }
}

const startMillis = 1_000_000

const identityOf = (index: number): ProcessIdentity => ({ pid: firstPid + index, birth: BigInt(7001 + index) })

/** Where programs begin: what is known of a program from one exploration is used in the next one. */
const beginnings = new WeakMap<Program, Map<string, Place>>()

const placeOf = (program: Program, index: number, isTimed: boolean): Place => {
  const known = beginnings.get(program) ?? new Map<string, Place>()
  beginnings.set(program, known)
  const key = `${index} ${isTimed}`
  const place = known.get(key) ?? new Place(identityOf(index), program, isTimed, [], false)
  known.set(key, place)
  return place
}

const startOf = ({ isTimed, parties, words }: Exploration): World =>
  new World(
    words ?? new Map(),
    startMillis,
    parties.map((program, index) => placeOf(program, index, isTimed ?? false))
  )

const checkOne = ({ check, checkEnd }: Exploration, world: World, path: string): void => {
  try {
    check(world)
    if (world.running.length === 0) checkEnd(world)
  } catch (cause) {
    throw new Error(`after ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}

/** More than any of these protocols has: one that goes round without getting anywhere is found out by it. */
const maxStates = 200_000
const maxSteps = 10_000

const refuseBeyond = (max: number, count: number, path: string): void => {
  if (count > max) throw new Error(`no end in sight after ${path.slice(-200)}`)
}

/** Goes through every order of the parties' steps, and answers how many states and ends there are. */
export const explore = (exploration: Exploration): { readonly states: number; readonly ends: number } => {
  const seen = new Set<string>()
  const stack = [{ world: startOf(exploration), path: "" }]
  let ends = 0
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    const { path, world } = node
    const { key } = world
    if (seen.has(key)) continue
    seen.add(key)
    refuseBeyond(maxStates, seen.size, path)
    checkOne(exploration, world, path)
    const { running } = world
    if (running.length === 0) ends++
    for (const index of running) {
      stack.push({ world: world.stepped(index), path: `${path}${index}` })
      if (world.kills < (exploration.kills ?? 0)) stack.push({ world: world.killed(index), path: `${path}x${index}` })
    }
  }
  return { states: seen.size, ends }
}

/** Goes one way through, as the numbers in 0 ... 1 say. */
export const wander = (exploration: Exploration, random: () => number): void => {
  let world = startOf(exploration)
  let path = ""
  for (let steps = 0;; steps++) {
    refuseBeyond(maxSteps, steps, path)
    checkOne(exploration, world, path)
    const { running } = world
    const index = running[Math.floor(random() * running.length)]
    if (index === undefined) return
    const isKilled = world.kills < (exploration.kills ?? 0) && random() < 0.02
    world = isKilled ? world.killed(index) : world.stepped(index)
    path += isKilled ? `x${index}` : `${index}`
  }
}

/** Lets one more process run alone, from its beginning to its end, some time after others have left that state. */
export const runAlone = (state: WorldState, program: Program, millisLater: number): WorldState => {
  if (!(state instanceof World)) throw new Error("only a state of an exploration can be gone on from")
  const index = state.parties.length
  const self = identityOf(index)
  const newcomer: PartyState = { self, status: "running", marks: [], notes: new Map() }
  const world = new World(state.words, state.millis + millisLater, [...state.parties, newcomer])
  let steps = 0
  const { marks, notes } = run(self, program, true, (step) => {
    refuseBeyond(maxSteps, ++steps, `process ${self.pid} alone`)
    return { answer: step(world) }
  })
  world.parties[index] = { self, status: "done", marks, notes }
  return world
}

/** How far the party is: whether it has passed the one mark and not yet the other. */
export const isBetween = ({ marks }: PartyState, from: string, to: string): boolean =>
  marks.lastIndexOf(from) > marks.lastIndexOf(to)

/** For checks that are made in every state, where those of the test library take most of the time. */
export const same = (found: bigint | undefined, expected: bigint | undefined, what: string): void => {
  if (found !== expected) throw new Error(`${what} is ${found} instead of ${expected}`)
}

/** A random generator of numbers in 0 ... 1, the same for the same seed. */
export const makeRandom = (seed: number): () => number => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }
}
