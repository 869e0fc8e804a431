/** The options of `log.ts`, from the command line. */
import { number, parseArguments, temporaryDirectory, wholeNumber } from "./options.ts"

export interface LogOptions {
  readonly writers: ReadonlyArray<number>
  readonly rounds: number
  readonly seconds: number
  readonly warmUpSeconds: number
  /** On the disk that is to be measured. */
  readonly directory: string
  /** Names of the contestants that run; all when it is empty. */
  readonly only: ReadonlyArray<string>
  /** Files that the results go to, besides the tables. */
  readonly json: string | undefined
  readonly plot: string | undefined
}

const usage = `options:
  --writers 1,8,64,256,1024  numbers of concurrent writers, a table for each
  --rounds 5                 alternating rounds
  --seconds 1                length of a measured slice
  --warm-up 0.5              length of the slice before it
  --only NAME,NAME           only these contestants (part of a name is enough)
  --directory DIR            where the files go; default: tmp of the repository
  --json FILE                the results as a JSON document
  --plot FILE.svg            a plot of records per second over writers`

export const parseLogOptions = (): LogOptions => {
  const { values } = parseArguments(usage, {
    options: {
      writers: { type: "string", default: "1,8,64,256,1024" },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "1" },
      "warm-up": { type: "string", default: "0.5" },
      only: { type: "string", default: "" },
      directory: { type: "string" },
      json: { type: "string" },
      plot: { type: "string" },
      help: { type: "boolean", default: false }
    }
  })
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
    only: values.only.split(",").filter((part) => part !== ""),
    json: values.json,
    plot: values.plot
  }
}
