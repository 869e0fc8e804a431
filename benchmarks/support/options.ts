/** The options of `commit.ts`, from the command line, and what the programs share to read theirs. */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { parseArgs, type ParseArgsConfig } from "node:util"

export interface BenchmarkOptions {
  readonly writers: ReadonlyArray<number>
  readonly rounds: number
  readonly seconds: number
  readonly warmUpSeconds: number
  /** On the disk that is to be measured. */
  readonly directory: string
  /** Names of the contestants that run; all when it is empty. */
  readonly only: ReadonlyArray<string>
  /** Frames in the log from which on a checkpoint is due, the same for all who have one; 0: never. */
  readonly checkpointFrames: number
  readonly json: boolean
}

const usage = `options:
  --writers 1,8,64,256      numbers of concurrent writers, a table for each
  --rounds 5                alternating rounds
  --seconds 1               length of a measured slice
  --warm-up 0.3             length of the slice before it
  --only NAME,NAME          only these contestants (part of a name is enough)
  --checkpoint-frames 1000  frames after which a checkpoint is due; 0: never
  --directory DIR           where the files go; default: tmp of the repository
  --json                    one JSON document instead of tables`

/** A number of at least `least`; ends the process with exit code 2 when it is none. */
export const number = (name: string, text: string, least: number): number => {
  const value = Number(text)
  return text.trim() !== "" && value >= least && value < Infinity
    ? value
    : refuse(`--${name} is a number of at least ${least}, not "${text}"`)
}

/** The same for whole numbers. */
export const wholeNumber = (name: string, text: string, least: number): number =>
  Number.isSafeInteger(number(name, text, least))
    ? Number(text)
    : refuse(`--${name} is a whole number of at least ${least}, not "${text}"`)

/** Ends the program, which was asked for something that there is not. */
export const refuse = (sentence: string): never => {
  console.error(sentence)
  process.exit(2)
}

export const temporaryDirectory = (parent?: string): string => {
  const root = parent ?? NodePath.join(import.meta.dirname, "..", "..", "tmp")
  NodeFs.mkdirSync(root, { recursive: true })
  const directory = NodeFs.mkdtempSync(NodePath.join(root, "benchmark-"))
  process.once("exit", () => NodeFs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

export const parseOptions = (): BenchmarkOptions => {
  const { values } = readArguments()
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  return {
    writers: values.writers.split(",").map((text) => wholeNumber("writers", text, 1)),
    rounds: wholeNumber("rounds", values.rounds, 1),
    seconds: number("seconds", values.seconds, 0.01),
    warmUpSeconds: number("warm-up", values["warm-up"], 0),
    directory: temporaryDirectory(values.directory),
    only: values.only === undefined ? [] : values.only.split(","),
    checkpointFrames: wholeNumber("checkpoint-frames", values["checkpoint-frames"], 0),
    json: values.json
  }
}

const readArguments = () =>
  parseArguments(usage, {
    options: {
      writers: { type: "string", default: "1,8,64,256" },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "1" },
      "warm-up": { type: "string", default: "0.3" },
      only: { type: "string" },
      "checkpoint-frames": { type: "string", default: "1000" },
      directory: { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false }
    }
  })

/** The arguments of the program; ends it, with its usage, when there is one that it does not know. */
export const parseArguments = <Config extends ParseArgsConfig>(usage: string, config: Config) => {
  try {
    return parseArgs(config)
  } catch (cause) {
    return refuse(`${cause instanceof Error ? cause.message : String(cause)}\n\n${usage}`)
  }
}
